"""The command ``kling-flows``: a client of the gRPC front, and the way to start the servers.

Start-up has to feel instant, so that nothing here imports gRPC, the settings or a command's machinery before the
command that needs it runs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process; exits with a code of :mod:`kling_flows.cli.exit_codes`."""
    from kling_flows.cli.app import app

    app()


__all__ = ["main"]
