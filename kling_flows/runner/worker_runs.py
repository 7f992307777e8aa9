"""What dispatcher and worker tell each other by a flow run."""

from __future__ import annotations

from typing import Final

from prefect.client.schemas.objects import FlowRun

from kling_flows.engine.identity import RUNNER_PREFIX

#: The label that names the ledger of the run's video task.
LEDGER_LABEL: Final = "kling-flows.ledger"


def infrastructure_id(runner_id: str, run: FlowRun) -> str:
    """Where a run is carried, as Prefect keeps it: by which lease, and as which run."""
    return f"{runner_id}/{run.id}"


def runner_of(run: FlowRun) -> str | None:
    """The lease under which a worker of our type carries a run; None: nobody does, or a worker of another type."""
    runner_id, slash, _ = (run.infrastructure_pid or "").partition("/")
    return runner_id if slash and runner_id.startswith(RUNNER_PREFIX) else None
