"""What a peer declares in its ``peer.toml``, and the peers that there are.

A peer is a folder here with a ``peer.toml``; README.md in the folder above has the contract in words. Every command
runs in the peer's folder with the environment of :func:`benchmarks.peers.run.environment_of`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

FOLDER: Final = Path(__file__).parent

#: The folder of the project's own side.
OURS: Final = "kling-flows"

#: Seconds without any news after which what has not ended counts as lost, unless a peer needs more.
QUIET_SECONDS: Final = 90.0

#: What can be started for a peer.
SERVICES: Final = ("redis", "postgres", "temporal")


class Kind(StrEnum):
    """What a peer is, which decides how many tasks fit into the time."""

    OURS = "ours"
    LOOP = "loop"
    QUEUE = "queue"
    DURABLE = "durable"
    WORKFLOW = "workflow"


class ContractError(Exception):
    """A ``peer.toml`` breaks the contract; the message names the peer, the key and the rule."""


@dataclass(frozen=True, slots=True)
class Process:
    """A long-running command of a peer.

    Args:
        argv: The command.
        ready: Name of the variable with the port that accepts connections once it is ready; None if it prints a line
            ``READY`` instead.
    """

    argv: tuple[str, ...]
    ready: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer.

    Args:
        name: Its folder's, with the interval behind it if it is measured with several.
        folder: Where it is.
        title: For people.
        kind: What it is.
        durable: Whether it claims to survive a kill.
        environment: ``python``, ``node``, ``go`` or ``own``, which is this interpreter with this project.
        services: What is started for it, out of :data:`SERVICES`.
        processes: Started in this order.
        submit: The program that feeds jobs.
        restart: Processes that are killed and started again.
        variants: ``plain``, and ``careful`` if there is one.
        poll_seconds: Its own interval; None for the scenario's.
        settings: More variables for its commands; ``$NAME`` stands for another one.
        parts: Label by a piece of a command line: splits the figures of a process that starts others.
        tasks: Most tasks that fit into the time; None for what its kind can do.
        seconds_per_job: What one more job takes when all come at once; None for what is usual for its kind.
        quiet_seconds: Without any news after which what has not ended counts as lost.
        quiet_reason: Why that is longer than :data:`QUIET_SECONDS`, for the page; None if it is not.
        remark: What a reader of its figures should know, for the page; None if there is nothing.
        scenarios: Names of the scenarios that it takes part in; all if there are none.
        in_flight: Most tasks that it is asked to have in flight; beyond 1,000 it must be able to.
        not_measured: Why it is not measured; None if it is.
    """

    name: str
    folder: Path
    title: str
    kind: Kind
    durable: bool
    environment: str
    services: tuple[str, ...] = ()
    processes: Mapping[str, Process] = field(default_factory=dict[str, Process])
    submit: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("plain",)
    poll_seconds: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    parts: Mapping[str, str] = field(default_factory=dict[str, str])
    tasks: int | None = None
    seconds_per_job: float | None = None
    quiet_seconds: float = QUIET_SECONDS
    quiet_reason: str | None = None
    remark: str | None = None
    scenarios: tuple[str, ...] = ()
    in_flight: int = 1_000
    not_measured: str | None = None

    @property
    def label(self) -> str:
        """For people."""
        return self.title if self.poll_seconds is None else f"{self.title}, every {self.poll_seconds:g} s"

    @property
    def ours(self) -> bool:
        """Whether it is the project's own side."""
        return self.kind is Kind.OURS


def peers() -> Sequence[Peer]:
    """Every peer, ours first, then by kind.

    Raises:
        ContractError: one breaks the contract.
    """
    found = [peer for file in sorted(FOLDER.glob("*/peer.toml")) for peer in read(file)]
    kinds = list(Kind)
    return sorted(found, key=lambda peer: (kinds.index(peer.kind), peer.name))


def read(file: Path) -> Sequence[Peer]:
    """The peer of a ``peer.toml``; with several intervals one for each, of which the further ones only meet the burst.

    Raises:
        ContractError: it breaks the contract.
    """
    name = file.parent.name
    try:
        document = tomllib.loads(file.read_text())
        peer = _peer(file.parent, document)
    except (KeyError, TypeError, ValueError) as error:
        raise ContractError(f"{name}: peer.toml is not well formed: {error!r}") from error
    _check(peer, document)
    intervals: list[float] = document.get("poll_seconds", [])
    found = [replace(peer, name=f"{name}-{interval:g}s", poll_seconds=interval) for interval in intervals]
    return [*found[:1], *(replace(further, scenarios=("burst",)) for further in found[1:])] or [peer]


def _peer(folder: Path, document: Mapping[str, Any]) -> Peer:
    ports: Mapping[str, str] = document.get("ready", {})
    processes = {name: _process(value, ports.get(name)) for name, value in document.get("processes", {}).items()}
    return Peer(
        name=folder.name,
        folder=folder,
        title=document["title"],
        kind=Kind(document["kind"]),
        durable=document["durable"],
        environment=document["environment"],
        services=tuple(document.get("services", ())),
        processes=processes,
        submit=tuple(document.get("submit", ())),
        restart=tuple(document.get("restart", ())),
        variants=tuple(document.get("variants", ("plain",))),
        settings=dict(document.get("settings", {})),
        parts=dict(document.get("parts", {})),
        tasks=document.get("tasks"),
        seconds_per_job=document.get("seconds_per_job"),
        quiet_seconds=document.get("quiet_seconds", QUIET_SECONDS),
        quiet_reason=document.get("quiet_reason"),
        remark=document.get("remark"),
        scenarios=tuple(document.get("scenarios", ())),
        in_flight=document.get("in_flight", 1_000),
        not_measured=document.get("not_measured"),
    )


def _process(value: Any, port: str | None) -> Process:
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        return Process(tuple(table["argv"]), table.get("ready", port))
    return Process(tuple(value), port)


def _check(peer: Peer, document: Mapping[str, Any]) -> None:
    def rule(kept: bool, words: str) -> None:
        if not kept:
            raise ContractError(f"{peer.name}: {words}")

    known = {*Peer.__dataclass_fields__, "ready"} - {"name", "folder"}
    rule(set(document) <= known, f"peer.toml has unknown keys: {', '.join(sorted(set(document) - known))}")
    rule(peer.environment in ("python", "node", "go", "own"), "environment is python, node, go or own")
    if peer.not_measured is not None:
        return
    rule(bool(peer.submit), "submit is missing")
    rule(set(peer.services) <= set(SERVICES), f"services are out of {', '.join(SERVICES)}")
    rule(set(peer.variants) <= {"plain", "careful"} and "plain" in peer.variants, "variants are plain and careful")
    rule(set(peer.restart) <= set(peer.processes), "restart names processes")
    rule(bool(peer.restart) == bool(peer.processes), "restart is missing, or there is no process to restart")
    rule(
        (peer.quiet_seconds > QUIET_SECONDS) == (peer.quiet_reason is not None),
        f"quiet_seconds above {QUIET_SECONDS:g} and quiet_reason go together",
    )
    rule(peer.quiet_seconds >= QUIET_SECONDS, f"quiet_seconds is at least {QUIET_SECONDS:g}")
    if peer.environment == "python":
        rule((peer.folder / "requirements.txt").exists(), "environment python needs a requirements.txt")
    if peer.environment == "node":
        rule((peer.folder / "package-lock.json").exists(), "environment node needs a package-lock.json")
