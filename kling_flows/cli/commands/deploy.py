"""``kling-flows deploy``."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kling_flows.cli.options import PLAIN_OPTIONS, Shared, command


@command("config", "json", *PLAIN_OPTIONS)
def deploy(
    shared: Shared,
    prefect_url: Annotated[
        str | None,
        typer.Option(
            "--prefect", metavar="URL", help="Prefect's API; by default PREFECT_API_URL, or the one that serve uses."
        ),
    ] = None,
    pool: Annotated[str, typer.Option("--pool", help="The work pool.")] = "kling-flows",
    kind: Annotated[str, typer.Option("--type", help="Its type, if it has to be created.")] = "kling-flows",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="FLOW/NAME", help="Only this deployment; can be repeated.")
    ] = None,
) -> None:
    """Create or update Prefect's deployments of the flows, with their work pool, queues and schedules."""
    from kling_flows.cli.deployments import deploy as run
    from kling_flows.cli.output import Output

    output = Output(shared)
    settings = shared.settings()
    # Prefect's own variable before the address that serve would use.
    url = prefect_url or settings.prefect_api_url or os.environ.get("PREFECT_API_URL") or settings.prefect_address
    made = run(url, pool, kind, only or [])
    if output.json:
        output.document(made)
        return
    for deployment in made["deployments"]:
        output.result(deployment["name"])
    output.note(f"A worker carries them: prefect worker start --pool {pool}")
