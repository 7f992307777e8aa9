"""``kling-flows generate``."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from kling_flows.cli.options import CLIENT_OPTIONS, Shared, command
from kling_flows.cli.words import CameraType, Mode, ShotType, Sound

if TYPE_CHECKING:
    from kling_flows.cli.generation import Generation
    from kling_flows.cli.output import Output
    from kling_flows.v1.video_task_pb2 import VideoTask

_LOOK = "How it looks"
_SHOTS = "Several shots"
_TASK = "The task"


@command(*CLIENT_OPTIONS)
def generate(
    shared: Shared,
    prompt: Annotated[str, typer.Argument(help="What the video shows; may be left out with --shot.")] = "",
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Model, by default kling-v3.", rich_help_panel=_LOOK)
    ] = "",
    mode: Annotated[
        Mode | None, typer.Option("--mode", help="std is 720p, pro 1080p, 4k 2160p.", rich_help_panel=_LOOK)
    ] = None,
    duration: Annotated[
        int | None,
        typer.Option(
            "--duration", metavar="SECONDS", min=1, max=3600, help="Length, by default 5.", rich_help_panel=_LOOK
        ),
    ] = None,
    aspect_ratio: Annotated[
        str,
        typer.Option("--aspect-ratio", metavar="W:H", help="16:9 (the default), 9:16 or 1:1.", rich_help_panel=_LOOK),
    ] = "",
    negative_prompt: Annotated[
        str,
        typer.Option("--negative-prompt", metavar="TEXT", help="What must not be seen.", rich_help_panel=_LOOK),
    ] = "",
    cfg_scale: Annotated[
        float | None,
        typer.Option("--cfg-scale", metavar="0..1", help="How closely to keep to the prompt.", rich_help_panel=_LOOK),
    ] = None,
    sound: Annotated[Sound | None, typer.Option("--sound", help="Make sound as well.", rich_help_panel=_LOOK)] = None,
    voice: Annotated[
        list[str] | None,
        typer.Option("--voice", metavar="ID", help="A voice of your account; repeatable.", rich_help_panel=_LOOK),
    ] = None,
    camera: Annotated[
        CameraType | None, typer.Option("--camera", help="How the camera moves.", rich_help_panel=_LOOK)
    ] = None,
    camera_axis: Annotated[
        list[str] | None,
        typer.Option(
            "--camera-axis",
            metavar="AXIS=NUMBER",
            help="For --camera simple, for example zoom=5.",
            rich_help_panel=_LOOK,
        ),
    ] = None,
    watermark: Annotated[
        bool, typer.Option("--watermark", help="Also make a copy with a watermark.", rich_help_panel=_LOOK)
    ] = False,
    multi_shot: Annotated[
        bool, typer.Option("--multi-shot", help="Make several shots; see --shot-type.", rich_help_panel=_SHOTS)
    ] = False,
    shot_type: Annotated[
        ShotType | None,
        typer.Option(
            "--shot-type",
            help="customize takes each --shot, intelligence cuts PROMPT into shots. Implies --multi-shot.",
            rich_help_panel=_SHOTS,
        ),
    ] = None,
    shot: Annotated[
        list[str] | None,
        typer.Option(
            "--shot",
            metavar="SECONDS:PROMPT",
            help="One shot, for example '3:a fox wakes'; repeatable. Implies --shot-type customize; "
            "--duration is then their sum.",
            rich_help_panel=_SHOTS,
        ),
    ] = None,
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
            help="Called by the provider when the status changes.",
            rich_help_panel=_TASK,
        ),
    ] = "",
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the task's name and do not wait.", rich_help_panel=_TASK)
    ] = False,
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Check everything, create nothing.", rich_help_panel=_TASK)
    ] = False,
) -> None:
    """Make a video from text and wait for it.

    The task outlives this command: Ctrl-C only stops the waiting.
    """
    if not prompt and not shot:
        raise typer.BadParameter("say what the video shows", param_hint="PROMPT")
    from kling_flows.cli.failures import may_have_arrived
    from kling_flows.cli.generation import Generation
    from kling_flows.cli.output import Output
    from kling_flows.cli.request import VideoOptions, labels, text_to_video
    from kling_flows.v1.video_task_pb2 import VideoTask
    from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

    options = VideoOptions(
        prompt=prompt,
        negative_prompt=negative_prompt,
        model=model,
        mode=mode,
        duration=duration,
        aspect_ratio=aspect_ratio,
        cfg_scale=cfg_scale,
        sound=sound,
        camera=camera,
        camera_axes=camera_axis or (),
        multi_shot=multi_shot,
        shot_type=shot_type,
        shots=shot or (),
        voices=voice or (),
        watermark=watermark,
        callback_url=callback_url,
    )
    request = CreateVideoTaskRequest(
        video_task=VideoTask(text_to_video=text_to_video(options), labels=labels(label or ())),
        video_task_id=task_id,
        # Without one a repetition after a lost answer would buy a second video.
        request_id=request_id or str(uuid.uuid4()),
        validate_only=validate_only,
    )
    generation = Generation(request)
    output = Output(shared)
    try:
        code = asyncio.run(_run(generation, shared.address(), output, wait=not (detach or validate_only)))
    except KeyboardInterrupt:
        _say_how_to_go_on(generation, output, sent=True)
        raise
    except Exception as error:
        _say_how_to_go_on(generation, output, sent=may_have_arrived(error))
        raise
    raise typer.Exit(code)


async def _run(generation: Generation, address: str, output: Output, *, wait: bool) -> int:
    from kling_flows.cli.client import VideoTaskClient
    from kling_flows.cli.outcome import tell
    from kling_flows.cli.progress import progress_for

    async with VideoTaskClient(address, notice=output.note) as client:
        if not wait:
            _print_created(await generation.create(client), generation, output)
            return 0
        progress = progress_for(output, rows=1)
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
