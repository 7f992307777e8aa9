"""``kling-flows serve``."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from kling_flows.cli.options import SERVE_OPTIONS, Shared, command
from kling_flows.cli.words import Role

#: Where the console is served if no address for HTTP is set.
CONSOLE_ADDRESS: Final = "127.0.0.1:8080"


@command(*SERVE_OPTIONS)
def serve(
    shared: Shared,
    role: Annotated[
        Role,
        typer.Option("--role", help="front answers gRPC, runner makes the videos, all is both with a Prefect server."),
    ] = Role.ALL,
    console: Annotated[
        bool,
        typer.Option(
            "--console", help=f"Serve the web console too: on KLING_FLOWS_HTTP_LISTEN, or else on {CONSOLE_ADDRESS}."
        ),
    ] = False,
) -> None:
    """Serve gRPC and carry video tasks, until Ctrl-C."""
    from kling_flows.serve import run

    settings = shared.settings()
    if console:
        address = settings.http_listen or CONSOLE_ADDRESS
        settings = settings.model_copy(update={"http_listen": address, "console": True})
    raise typer.Exit(run(settings, role.value))
