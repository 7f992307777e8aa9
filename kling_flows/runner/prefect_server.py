"""``python -m kling_flows.runner.prefect_server HOST PORT``: the local Prefect server, which ends with its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, MutableMapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from kling_flows.errors import ConfigurationError
from kling_flows.processes import watch_parent

if TYPE_CHECKING:
    from prefect.server.events.schemas.events import ReceivedEvent
    from prefect.server.orchestration.rules import OrchestrationContext
    from prefect.server.schemas.states import State
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

#: What the names of our flow runs begin with; see :mod:`kling_flows.flows.names`, whose import costs Prefect's.
RUN_PREFIXES: Final = ("text-to-video/", "text-to-videos/")

# By default every event of a task run is a transaction of its own; a second's worth together costs a third less CPU.
_BATCHED: Final = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
}


def main(host: str, port: int) -> int:
    """Serve Prefect's API and UI until SIGTERM or the end of the parent; returns the exit code."""
    try:
        # Taken before the seconds that Prefect's import takes, so that nobody else can come first.
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        taken = ConfigurationError("KLING_FLOWS_PREFECT_LISTEN", f"{host}:{port} cannot be used ({error.strerror})")
        sys.stderr.write(f"{taken.message}\n")
        return taken.exit_code
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ.update(
        {
            "PREFECT_SERVER_API_HOST": host,
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_API_URL": f"http://{host}:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            **_BATCHED,
        }
    )
    import uvicorn
    from prefect.server.api.server import create_app

    _let_writers_wait()
    _let_our_runs_be_retried()
    _let_batches_lose_only_what_is_deleted()
    _let_schedules_fire()
    config = uvicorn.Config(create_app(final=True), log_level="warning", timeout_keep_alive=30)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _let_writers_wait() -> None:
    """Begin every explicit transaction on SQLite as a writing one.

    Prefect begins most of them as reading ones. One that then wants to write while another writes is refused by SQLite
    at once, whatever the time-out; Prefect answers 503 and its client comes back two seconds later, and all starts
    behind it wait as long. A transaction that begins as a writing one waits for its turn, some milliseconds.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    @asynccontextmanager
    async def begin_to_write(
        self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
    ) -> AsyncGenerator[AsyncSessionTransaction]:
        async with begin(self, session, with_for_update=True) as transaction:
            yield transaction

    AioSqliteConfiguration.begin_transaction = begin_to_write


def _let_our_runs_be_retried() -> None:
    """Accept the UI's retry of a flow run that a runner carries.

    Prefect refuses to reschedule a run without a deployment, because nothing would take it up. A runner does. Its
    newer UI forces the retry, which this rule never sees; the older one does not.
    """
    from prefect.server.orchestration.core_policy import HandleFlowTerminalStateTransitions as Rule

    refuse = Rule.before_transition

    async def before_transition(
        self: Rule,
        initial_state: State[Any] | None,
        proposed_state: State[Any] | None,
        context: OrchestrationContext[Any, Any],
    ) -> None:
        again = proposed_state is not None and proposed_state.is_scheduled()
        if again and context.run.deployment_id is None and context.run.name.startswith(RUN_PREFIXES):
            self.original_flow_policy = context.run.empirical_policy.model_dump()
            return
        await refuse(self, initial_state, proposed_state, context)

    Rule.before_transition = before_transition


def _let_batches_lose_only_what_is_deleted() -> None:
    """Record the events of a batch one by one where the batch as a whole cannot be recorded.

    The task runs of a flow run that somebody has deleted cannot be stored. Prefect gives up the whole batch with them,
    after some attempts that hold up all that come later.
    """
    from prefect.server.services import task_run_recorder as recorder
    from sqlalchemy.exc import IntegrityError

    record = recorder.record_bulk_task_run_events

    async def record_what_can_be(events: list[ReceivedEvent]) -> None:
        try:
            await record(events)
        except IntegrityError:
            if len(events) > 1:
                for event in events:
                    await record_what_can_be([event])

    recorder.record_bulk_task_run_events = record_what_can_be


def _let_schedules_fire() -> None:
    """Insert scheduled flow runs with SQLAlchemy 2.1 as with 2.0.

    Prefect's scheduler hands the state of each run along with its columns, and SQLAlchemy 2.0 passed over what is not a
    column. 2.1 asks the property of that name how to write it, and fails as it does not know: no schedule ever fires.
    """
    from prefect.server.database.orm_models import FlowRun

    def pass_over(_class: type[FlowRun], _mapping: MutableMapping[str, Any], _value: object) -> None:
        return

    # The states are inserted by Prefect itself, afterwards.
    vars(FlowRun)["state"].bulk_dml_setter = pass_over


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
