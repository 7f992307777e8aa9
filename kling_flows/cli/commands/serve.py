"""``kling-flows serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from kling_flows.cli.options import SERVE_OPTIONS, Shared, command
from kling_flows.cli.words import Role


@command(*SERVE_OPTIONS)
def serve(
    shared: Shared,
    role: Annotated[
        Role,
        typer.Option("--role", help="front answers gRPC, runner makes the videos, all is both with a Prefect server."),
    ] = Role.ALL,
) -> None:
    """Serve gRPC and carry video tasks, until Ctrl-C."""
    from kling_flows.serve import run

    raise typer.Exit(run(shared.settings(), role.value))
