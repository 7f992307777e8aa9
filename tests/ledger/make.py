"""Ledgers and tasks for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kling_flows.engine.leases import this_machine
from kling_flows.ledger import Lease, State, UpstreamRecord, VideoTask
from kling_flows.upstream import TextToVideoRequest


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def task(name: str, **fields: Any) -> VideoTask:
    now = datetime.now(UTC)
    given = {
        "tenant": "default",
        "state": State.QUEUED,
        "revision": 1,
        "request": TextToVideoRequest(prompt=f"a cup named {name}"),
        "create_time": now,
        "update_time": now,
    }
    return VideoTask(id=name, **{**given, **fields})


def upstream(name: str, **fields: Any) -> UpstreamRecord:
    given = {
        "provider": "sandbox",
        "dialect": "legacy",
        "base_url": "http://host",
        "account": "sandbox-1",
        "external_task_id": f"kf-1-{name}",
        "intent_time": datetime.now(UTC),
    }
    return UpstreamRecord(**{**given, **fields})


def lease(runner_id: str, **fields: Any) -> Lease:
    return Lease(
        **{
            "runner_id": runner_id,
            "beat": 0,
            "host": f"host/1/{this_machine()}",
            "lock_file": "/nowhere/lock",
            **fields,
        }
    )


def to(state: State, **fields: Any) -> Any:
    """A change into a state."""
    return lambda before: before.model_copy(update={"state": state, **fields})
