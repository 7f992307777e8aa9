"""``python -m kling_flows.runner.prefect_server HOST PORT``: the local Prefect server, which ends with its parent."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

from kling_flows.processes import watch_parent

# By default every event of a task run is a transaction of its own; a second's worth together costs a third less CPU.
_BATCHED: Final = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "2",
}


def main(host: str, port: str) -> None:
    """Serve Prefect's API and UI until SIGTERM or the end of the parent."""
    watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    os.environ.update(
        {
            "PREFECT_SERVER_API_HOST": host,
            "PREFECT_SERVER_API_PORT": port,
            "PREFECT_API_URL": f"http://{host}:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            **_BATCHED,
        }
    )
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(final=True), host=host, port=int(port), log_level="warning", timeout_keep_alive=30)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
