"""``kling-flows generate``."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.video import VideoOptions, takes_video
from kling_flows.cli.words import LateVideo

if TYPE_CHECKING:
    from kling_flows.cli.generation import Generation
    from kling_flows.cli.many import Order
    from kling_flows.cli.output import Output
    from kling_flows.cli.prompts import Prompt
    from kling_flows.v1.video_task_pb2 import VideoTask
    from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

_TASK = "The task"


@command(*CLIENT_OPTIONS)
@takes_video
def generate(
    shared: Shared,
    options: VideoOptions,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label", metavar="KEY=VALUE", help="Your own mark, to find it by; repeatable.", rich_help_panel=_TASK
        ),
    ] = None,
    task_id: Annotated[
        str, typer.Option("--id", metavar="ID", help="Your own id for the task.", rich_help_panel=_TASK)
    ] = "",
    request_id: Annotated[
        str,
        typer.Option(
            "--request-id",
            metavar="ID",
            help="Running the command again with the same id finds the same task instead of paying for a second one.",
            rich_help_panel=_TASK,
        ),
    ] = "",
    callback_url: Annotated[
        str,
        typer.Option(
            "--callback-url",
            metavar="URL",
            help="Called by us, signed, each time the state changes.",
            rich_help_panel=_TASK,
        ),
    ] = "",
    priority: Annotated[
        int,
        typer.Option(
            "--priority",
            min=0,
            max=9,
            help="While tasks wait for a place at the provider, higher ones go first.",
            rich_help_panel=_TASK,
        ),
    ] = 0,
    deadline: Annotated[
        str,
        typer.Option(
            "--deadline",
            metavar="TIME",
            help="When nobody wants it any more: 90s, 15m, 2h, 3d, or a moment such as 2026-12-01T09:00:00Z.",
            rich_help_panel=_TASK,
        ),
    ] = "",
    on_deadline: Annotated[
        LateVideo | None,
        typer.Option(
            "--on-deadline",
            help="What becomes of a video that is being made by then; it is billed in either case.",
            rich_help_panel=_TASK,
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the task's name and do not wait.", rich_help_panel=_TASK)
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.", rich_help_panel=_TASK)
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Show the video when it is there.", rich_help_panel=_TASK)
    ] = False,
) -> None:
    """Make a video from text and wait for it; with - as PROMPT one for each line of stdin.

    Many prompts are all checked before the first is paid for. A task outlives this command: Ctrl-C only stops the
    waiting.
    """
    from kling_flows.cli.generation import Generation
    from kling_flows.cli.output import Output
    from kling_flows.cli.prompts import STDIN, read_prompts
    from kling_flows.cli.request import labels, late_video, moment_in, text_to_video
    from kling_flows.v1.video_task_pb2 import VideoTask
    from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

    request = CreateVideoTaskRequest(
        video_task=VideoTask(
            text_to_video=text_to_video(options, callback_url=callback_url),
            labels=labels(label or ()),
            priority=priority,
            deadline=moment_in(deadline, "--deadline") if deadline else None,
            on_deadline=late_video(on_deadline),
        ),
        video_task_id=task_id,
        # Without one a repetition after a lost answer would buy a second video.
        request_id=request_id or str(uuid.uuid4()),
        validate_only=validate_only,
    )
    output = Output(shared)
    wait = not (detach or validate_only)
    if open_ and not wait:
        raise typer.BadParameter("there will be no video when this command ends", param_hint="--open")
    if options.prompt != STDIN:
        raise typer.Exit(_generate_one(Generation(request), shared, output, wait=wait, open_=open_))
    for given, option in ((task_id, "--id"), (open_, "--open")):
        if given:
            raise typer.BadParameter("it is for one video, and - makes many", param_hint=option)
    if sys.stdin.isatty():
        output.note("One prompt on each line, then Ctrl-D.")
    raise typer.Exit(_generate_many(request, read_prompts(), shared, output, wait=wait))


def _generate_one(generation: Generation, shared: Shared, output: Output, *, wait: bool, open_: bool) -> int:
    from kling_flows.cli.failures import may_have_arrived
    from kling_flows.cli.opening import open_video

    try:
        code = asyncio.run(_run(generation, shared, output, wait=wait))
    except KeyboardInterrupt:
        _say_how_to_go_on(generation, output, sent=True)
        raise
    except Exception as error:
        _say_how_to_go_on(generation, output, sent=may_have_arrived(error))
        raise
    if open_ and generation.task is not None:
        open_video(generation.task, output)
    return code


def _generate_many(
    template: CreateVideoTaskRequest, prompts: Sequence[Prompt], shared: Shared, output: Output, *, wait: bool
) -> int:
    from kling_flows.cli.failures import may_have_arrived
    from kling_flows.cli.many import Order, how_to_go_on

    order = Order.of(template, prompts)
    try:
        return asyncio.run(_run_many(order, shared, output, wait=wait))
    except KeyboardInterrupt:
        if order.sent:
            output.note(how_to_go_on(order))
        raise
    except Exception as error:
        if order.tasks or (order.sent and may_have_arrived(error)):
            output.note(how_to_go_on(order))
        raise


async def _run_many(order: Order, shared: Shared, output: Output, *, wait: bool) -> int:
    from kling_flows.cli.connect import connect
    from kling_flows.cli.many import refuse, tell_all, tell_created, tell_valid
    from kling_flows.cli.progress import progress_for

    async with connect(shared, output) as client:
        valid, failures = await order.check(client)
        if failures:
            return refuse(failures, output)
        if order.validate_only:
            tell_valid(valid, output)
            return 0
        await order.create(client)
        if not wait:
            tell_created(order, output)
            return 0
        progress = progress_for(output)
        with progress.shown():
            await order.run(client, progress, output)
    return tell_all(list(order.tasks.values()), output)


async def _run(generation: Generation, shared: Shared, output: Output, *, wait: bool) -> int:
    from kling_flows.cli.connect import connect
    from kling_flows.cli.outcome import tell
    from kling_flows.cli.progress import progress_for

    async with connect(shared, output) as client:
        if not wait:
            _print_created(await generation.create(client), generation, output)
            return 0
        progress = progress_for(output)
        with progress.shown():
            task = await generation.run(client, progress)
    return tell(task, output)


def _print_created(task: VideoTask, generation: Generation, output: Output) -> None:
    from kling_flows.cli.describe import all_lines
    from kling_flows.cli.documents import document
    from kling_flows.cli.request import short_id

    if output.json:
        output.document(document(task))
    elif generation.request.validate_only:
        output.note("Valid; nothing was created.")
        if not output.quiet:
            output.result(all_lines(task))
    else:
        output.line(task.name)
        output.note(f"Watch it: kling-flows watch {short_id(task.name)}")


def _say_how_to_go_on(generation: Generation, output: Output, *, sent: bool) -> None:
    from kling_flows.cli.request import short_id

    if generation.task is not None:
        output.note(f"The video task goes on. Watch it: kling-flows watch {short_id(generation.task.name)}")
    elif sent:
        # A repetition with another id could buy a second video.
        output.note(
            "The server has not answered; the video task may exist. "
            f"To repeat this safely add: --request-id {generation.request.request_id}"
        )
