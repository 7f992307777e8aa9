"""``python -m grpc_server``: the front, configured by the environment."""

from __future__ import annotations

import sys

from grpc_server.process import run, serve
from kling_flows.errors import KlingFlowsError
from kling_flows.logs import configure_logging
from kling_flows.settings import Settings


def main() -> int:
    """Serve until told to stop; answer the exit code."""
    try:
        configure_logging()
        run(serve(Settings.load()))
    except KlingFlowsError as error:
        sys.stderr.write(f"error: {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
