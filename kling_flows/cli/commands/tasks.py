"""``kling-flows get``, ``list``, ``cancel`` and ``resolve``."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.completion import complete_task
from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.words import LateVideo, State

if TYPE_CHECKING:
    from kling_flows.cli.output import Output
    from kling_flows.v1.video_task_pb2 import VideoTask
    from kling_flows.v1.video_task_service_pb2 import ListVideoTasksRequest


@command(*CLIENT_OPTIONS)
def get(
    shared: Shared,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Id or name of the task.", autocompletion=complete_task)],
    open_: Annotated[bool, typer.Option("--open", help="Show its video too.")] = False,
) -> None:
    """Show one video task."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.opening import open_video
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import resource_name

    output = Output(shared)

    async def run() -> VideoTask:
        async with connect(shared, output) as client:
            return await client.get(resource_name(task_id))

    task = asyncio.run(run())
    _print(task, output)
    if open_:
        open_video(task, output)


@command(*CLIENT_OPTIONS)
def cancel(
    shared: Shared,
    task_id: Annotated[str, typer.Argument(metavar="ID", help="Id or name of the task.", autocompletion=complete_task)],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for whoever looks at it later.")] = "",
    on_cancel: Annotated[
        LateVideo | None,
        typer.Option(
            "--on-cancel", help="What becomes of a video that is being made; it is billed in either case. [DISCARD]"
        ),
    ] = None,
) -> None:
    """Cancel a video task: free while it is QUEUED; later the provider may still make and bill it."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import late_video, resource_name
    from kling_flows.v1.video_task_service_pb2 import CancelVideoTaskRequest

    output = Output(shared)
    request = CancelVideoTaskRequest(name=resource_name(task_id), reason=reason, on_cancel=late_video(on_cancel))

    async def run() -> VideoTask:
        async with connect(shared, output) as client:
            return await client.cancel(request)

    task = asyncio.run(run())
    _print(task, output)
    if task.video_pending:
        output.note("It had reached the provider, which has no cancel: the video is still made, billed, and archived.")
    elif task.upstream.task_id:
        output.note(
            "It had reached the provider, which has no cancel: it may still be made and billed. To keep that video: "
            f"kling-flows cancel {task_id} --on-cancel KEEP_VIDEO"
        )


@command(*CLIENT_OPTIONS)
def resolve(
    shared: Shared,
    task_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id or name of the UNRESOLVED task.", autocompletion=complete_task)
    ],
    adopt: Annotated[
        str, typer.Option("--adopt", metavar="TASK_ID", help="The provider has accepted it under this id: follow that.")
    ] = "",
    abandon: Annotated[bool, typer.Option("--abandon", help="It was not, or nobody wants it: FAILED.")] = False,
) -> None:
    """Decide about an UNRESOLVED video task, after a look into the provider's console."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import resource_name
    from kling_flows.v1.video_task_service_pb2 import ResolveVideoTaskRequest

    if bool(adopt) == abandon:
        raise typer.BadParameter("give either --adopt TASK_ID or --abandon")
    output = Output(shared)
    request = ResolveVideoTaskRequest(name=resource_name(task_id))
    if adopt:
        request.adopt_task_id = adopt
    else:
        request.abandon = True

    async def run() -> VideoTask:
        async with connect(shared, output) as client:
            return await client.resolve(request)

    _print(asyncio.run(run()), output)


@command(*CLIENT_OPTIONS)
def list_(
    shared: Shared,
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
    page_size: Annotated[
        int, typer.Option("--page-size", min=1, max=1000, help="At most so many; with --all, so many at a time.")
    ] = 50,
    all_pages: Annotated[bool, typer.Option("--all", help="All of them, not only the newest.")] = False,
) -> None:
    """List video tasks, the newest first."""
    from kling_flows.cli.describe import table
    from kling_flows.cli.documents import document
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import task_filter
    from kling_flows.v1.video_task_service_pb2 import ListVideoTasksRequest

    output = Output(shared)
    request = ListVideoTasksRequest(page_size=page_size, filter=task_filter(state, label or (), filter_))
    tasks, more = asyncio.run(_list(shared, output, request, all_pages=all_pages))
    if output.jsonl:
        output.note(f"{len(tasks)} video tasks.")
    elif output.json:
        output.document({"video_tasks": [document(task) for task in tasks]})
    elif tasks:
        output.result(table(tasks))
    else:
        output.note("No video tasks.")
    if more:
        output.note("There are older ones: --all, or a larger --page-size.")


async def _list(
    shared: Shared, output: Output, request: ListVideoTasksRequest, *, all_pages: bool
) -> tuple[Sequence[VideoTask], bool]:
    """The tasks, and whether there are more; JSON lines are printed page by page."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document

    tasks: list[VideoTask] = []
    async with connect(shared, output) as client:
        while True:
            page = await client.list(request)
            tasks.extend(page.video_tasks)
            if output.jsonl:
                for task in page.video_tasks:
                    output.document(document(task))
            request.page_token = page.next_page_token
            if not all_pages or not page.next_page_token:
                return tasks, bool(page.next_page_token)


def _print(task: VideoTask, output: Output) -> None:
    from kling_flows.cli.describe import all_lines
    from kling_flows.cli.documents import document

    if output.json:
        output.document(document(task))
    else:
        output.result(all_lines(task))
