"""``kling-flows models`` and ``quote``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.video import VideoOptions, takes_video

if TYPE_CHECKING:
    from kling_flows.v1.video_task_service_pb2 import ListModelsResponse, Quote


@command(*CLIENT_OPTIONS)
def models(
    shared: Shared,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are retired.")] = False,
) -> None:
    """Show what the models can do and what they cost."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document
    from kling_flows.cli.output import Output
    from kling_flows.cli.prices import model_table
    from kling_flows.v1.video_task_service_pb2 import ListModelsRequest

    output = Output(shared)

    async def run() -> ListModelsResponse:
        async with connect(shared, output) as client:
            return await client.list_models(ListModelsRequest(show_retired=all_))

    response = asyncio.run(run())
    if output.json:
        output.document(document(response))
        return
    output.result(model_table(response.models))
    output.note(
        f"At {response.provider}, dialect {response.dialect}. Prices are video units per second; behind the slash with "
        "sound."
    )


@command(*CLIENT_OPTIONS)
@takes_video
def quote(shared: Shared, options: VideoOptions) -> None:
    """Say what a video would cost, without making it."""
    from kling_flows.cli.connect import connect
    from kling_flows.cli.documents import document
    from kling_flows.cli.output import Output
    from kling_flows.cli.prices import quote_lines
    from kling_flows.cli.request import text_to_video
    from kling_flows.v1.video_task_pb2 import VideoTask
    from kling_flows.v1.video_task_service_pb2 import QuoteVideoTaskRequest

    output = Output(shared)
    request = QuoteVideoTaskRequest(video_task=VideoTask(text_to_video=text_to_video(options)))

    async def run() -> Quote:
        async with connect(shared, output) as client:
            return await client.quote(request)

    answer = asyncio.run(run())
    if output.json:
        output.document(document(answer))
    elif output.quiet:
        output.line(answer.units)
    else:
        output.result(quote_lines(answer))
