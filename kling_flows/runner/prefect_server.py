"""``python -m kling_flows.runner.prefect_server HOST PORT``: the local Prefect server, which ends with its parent."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from kling_flows.errors import ConfigurationError
from kling_flows.processes import watch_parent

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
