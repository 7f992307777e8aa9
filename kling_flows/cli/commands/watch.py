"""``kling-flows watch``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.completion import complete_task
from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.words import State

if TYPE_CHECKING:
    from kling_flows.cli.output import Output
    from kling_flows.v1.video_task_pb2 import VideoTask


@command(*CLIENT_OPTIONS)
def watch(
    shared: Shared,
    task_ids: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ID]...", help="Which tasks; all that there are without any.", autocompletion=complete_task
        ),
    ] = None,
    state: Annotated[
        State | None, typer.Option("--state", case_sensitive=False, help="Only those in this state.")
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Only those with this label; repeatable."),
    ] = None,
    filter_: Annotated[
        str,
        typer.Option("--filter", metavar="EXPRESSION", help="For example 'state = FAILED AND labels.team = \"ads\"'."),
    ] = "",
) -> None:
    """Watch video tasks change: with IDs until all have ended, otherwise until Ctrl-C.

    With IDs the exit code is 0 if all have succeeded, otherwise that of the first one which has not.
    """
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import resource_name, task_filter

    expression = task_filter(state, label or (), filter_)
    if task_ids and expression:
        raise typer.BadParameter("name tasks or conditions, not both", param_hint="ID")
    output = Output(shared)
    if not task_ids:
        asyncio.run(_watch_forever(shared, expression, output))
        return
    names = list(dict.fromkeys(resource_name(task_id) for task_id in task_ids))
    raise typer.Exit(asyncio.run(_watch_to_the_end(shared, names, output)))


async def _watch_forever(shared: Shared, expression: str, output: Output) -> None:
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document
    from kling_flows.cli.generation import final
    from kling_flows.cli.progress import LineProgress

    lines = LineProgress(output, result=True)
    async with (
        connect(shared, output) as client,
        aclosing(client.watch(filter_=expression)) as watching,
    ):
        async for seen in watching:
            if output.json:
                output.document(document(seen.task), compact=True)
            elif seen.live or expression or not final(seen.task):
                # Nobody who asks what is going on wants to read first all that ever was.
                lines.changed(seen.task)


async def _watch_to_the_end(shared: Shared, names: Sequence[str], output: Output) -> int:
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document
    from kling_flows.cli.generation import final, follow
    from kling_flows.cli.progress import NoProgress, progress_for

    seen: dict[str, VideoTask] = {}
    # With JSON every change is a line of its own already.
    progress = NoProgress() if output.json else progress_for(output)

    def changed(task: VideoTask) -> None:
        seen[task.name] = task
        if output.json:
            output.document(document(task), compact=True)
        progress.changed(task)

    async with connect(shared, output) as client:
        with progress.shown():
            await follow(client, names, changed, until=final)
    return _tell_all([seen[name] for name in names], output)


def _tell_all(tasks: Sequence[VideoTask], output: Output) -> int:
    from kling_flows.cli.failures import report
    from kling_flows.cli.outcome import failure_of, tell

    if not output.json:
        codes = [tell(task, output) for task in tasks]
        return next((code for code in codes if code), 0)
    # Each task stands on stdout already.
    failures = [failure for task in tasks if (failure := failure_of(task)) is not None]
    for failure in failures:
        report(failure, output)
    return failures[0].exit_code if failures else 0
