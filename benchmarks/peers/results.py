"""The results, as JSON: one file per run."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.peers.contract import FOLDER
from benchmarks.peers.environments import Environment
from benchmarks.peers.figures import calculate, cpu_per_process
from benchmarks.peers.run import PeerObserved, Row
from benchmarks.report import RESULTS

FILES: Final = RESULTS / "peers"

#: What was left out and why, and the machine, of the last run of the whole.
_SESSION: Final = "session.json"

_OWN_PACKAGES: Final = ("kling-flows", "prefect", "grpcio", "sqlalchemy")


@dataclass(frozen=True, slots=True)
class Stored:
    """One run, as it was written.

    Args:
        peer: Name of who.
        variant: ``plain`` or ``careful``.
        scenario: Name of what.
        tasks: Jobs.
        repeat: Counted from 1.
        figures: By name.
        cpu: Seconds per 1,000 tasks by process.
        packages: What the peer's environment was made of.
        killed: Whether the kill that the scenario asks for took place.
        gave_up: Whether it was ended because nothing happened any more.
        measured_at: Date and time, UTC.
    """

    peer: str
    variant: str
    scenario: str
    tasks: int
    repeat: int
    figures: Mapping[str, float | None]
    cpu: Mapping[str, float]
    packages: Sequence[str]
    killed: bool
    gave_up: bool
    measured_at: str


def write(row: Row, environment: Environment, seen: PeerObserved) -> Stored:
    """Write one run; a former one of the same is replaced."""
    packages = [f"{name}=={version(name)}" for name in _OWN_PACKAGES] if row.peer.ours else environment.packages
    stored = Stored(
        peer=row.peer.name,
        variant=row.variant,
        scenario=row.scenario.name,
        tasks=row.tasks,
        repeat=row.repeat,
        figures=calculate(seen),
        cpu=cpu_per_process(seen),
        packages=packages,
        killed=seen.killed,
        gave_up=seen.gave_up,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _write(_file(row), {name: getattr(stored, name) for name in Stored.__dataclass_fields__})
    return stored


def is_stored(row: Row) -> bool:
    """Whether a run of the same was written."""
    return _file(row).exists()


def forget() -> None:
    """Remove all that was written before."""
    shutil.rmtree(FILES, ignore_errors=True)


def stored() -> Sequence[Stored]:
    """All runs that were written."""
    return [Stored(**json.loads(file.read_text())) for file in sorted(FILES.glob("*/*.json"))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the page says of a whole call.

    Args:
        command: How it was called.
        minutes: How long it took.
        left_out: Rows that did not fit into the time.
        failed: Why rows or peers could not be measured.
        services: Versions of the services that were used.
    """

    command: str
    minutes: float
    left_out: Sequence[str]
    failed: Mapping[str, str]
    services: Sequence[str]


def write_session(told: Told, measured: Collection[str], former: Mapping[str, Any] | None = None) -> None:
    """Write what the page says of the whole.

    Args:
        told: Of this call.
        measured: Rows that it has measured.
        former: What :func:`session` answered before, if this call went on from there.
    """
    if former is not None:
        still_out = [label for label in former["left_out"] if label not in measured]
        still_failed = {label: why for label, why in former["failed"].items() if label not in measured}
        told = Told(
            command=f"{former['command']}; {told.command}",
            minutes=former["minutes"] + told.minutes,
            left_out=list(dict.fromkeys([*still_out, *told.left_out])),
            failed=still_failed | dict(told.failed),
            services=list(dict.fromkeys([*former["services"], *told.services])),
        )
    document = {
        **asdict(told),
        "minutes": round(told.minutes, 1),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
    }
    _write(FILES / _SESSION, document)


def session() -> Mapping[str, Any] | None:
    """What :func:`write_session` wrote last."""
    file = FILES / _SESSION
    return json.loads(file.read_text()) if file.exists() else None


def _file(row: Row) -> Path:
    return FILES / row.scenario.name / f"{row.peer.name}-{row.variant}-{row.repeat}.json"


def _machine() -> Mapping[str, str]:
    revision = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "revision": revision or "unknown",
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _write(file: Path, document: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2) + "\n")
