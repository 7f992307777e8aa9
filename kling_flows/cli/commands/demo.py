"""``kling-flows demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kling_flows.cli.options import PLAIN_OPTIONS, Shared, command


@command("state_dir", *PLAIN_OPTIONS)
def demo(
    shared: Shared,
    prompt: Annotated[str, typer.Argument(help="What the video shows; something lovely if left out.")] = "",
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the video.")] = Path(
        "kling-flows-demo"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the servers' data and logs.")] = False,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Leave the servers running until Ctrl-C, to look at Prefect's page.")
    ] = False,
) -> None:
    """From a prompt to a video in one command, without a key: against a stand-in for Kling."""
    from kling_flows.cli import demo as demo_
    from kling_flows.cli.output import Output

    options = demo_.DemoOptions(
        prompt=prompt or demo_.PROMPT,
        folder=folder,
        state_dir=shared.values.get("state_dir"),
        keep=keep,
        keep_running=keep_running,
    )
    raise typer.Exit(demo_.run(options, Output(shared)))
