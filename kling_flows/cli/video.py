"""The options that say what to make, for every command that takes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from kling_flows.cli.completion import complete_model
from kling_flows.cli.words import OTHER_MODES, CameraType, Mode, ShotType, Sound

_LOOK: Final = "How it looks"
_SHOTS: Final = "Several shots"


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """What to make; None where the server's default is wanted."""

    prompt: str = ""
    negative_prompt: str = ""
    model: str = ""
    mode: Mode | None = None
    duration: int | None = None
    aspect_ratio: str = ""
    cfg_scale: float | None = None
    sound: Sound | None = None
    camera: CameraType | None = None
    camera_axes: Sequence[str] = ()
    multi_shot: bool = False
    shot_type: ShotType | None = None
    shots: Sequence[str] = ()
    voices: Sequence[str] = ()
    watermark: bool = False


def _look(*declarations: str, **rest: Any) -> Any:
    return typer.Option(*declarations, rich_help_panel=_LOOK, **rest)


def _shots(*declarations: str, **rest: Any) -> Any:
    return typer.Option(*declarations, rich_help_panel=_SHOTS, **rest)


def _mode(word: str) -> Mode:
    try:
        return Mode(word)
    except ValueError:
        known = ", ".join(Mode)
        meant = OTHER_MODES.get(word)
        remedy = f"that is {meant.value!r} here" if meant is not None else f"it is one of {known}"
        raise typer.BadParameter(f"{word!r} is not a mode; {remedy}.") from None


def _complete_mode(incomplete: str) -> list[str]:
    return [word for word in Mode if word.startswith(incomplete)]


#: Type and default of each option, by the name of its parameter.
_OPTIONS: Final[Mapping[str, tuple[Any, Any]]] = {
    "prompt": (
        Annotated[str, typer.Argument(metavar="PROMPT", help="What the video shows; may be left out with --shot.")],
        "",
    ),
    "model": (
        Annotated[
            str,
            _look(
                "--model",
                metavar="NAME",
                help="Model, by default kling-v3; see `models`.",
                autocompletion=complete_model,
            ),
        ],
        "",
    ),
    "mode": (
        Annotated[
            Mode | None,
            _look(
                "--mode",
                metavar=f"[{'|'.join(Mode)}]",
                help="std is 720p, pro 1080p, 4k 2160p.",
                parser=_mode,
                autocompletion=_complete_mode,
            ),
        ],
        None,
    ),
    "duration": (
        Annotated[int | None, _look("--duration", metavar="SECONDS", min=1, max=3600, help="Length, by default 5.")],
        None,
    ),
    "aspect_ratio": (
        Annotated[str, _look("--aspect-ratio", metavar="W:H", help="16:9 (the default), 9:16 or 1:1.")],
        "",
    ),
    "negative_prompt": (Annotated[str, _look("--negative-prompt", metavar="TEXT", help="What must not be seen.")], ""),
    "cfg_scale": (
        Annotated[float | None, _look("--cfg-scale", metavar="0..1", help="How closely to keep to the prompt.")],
        None,
    ),
    "sound": (Annotated[Sound | None, _look("--sound", help="Make sound as well.")], None),
    "voice": (
        Annotated[list[str] | None, _look("--voice", metavar="ID", help="A voice of your account; repeatable.")],
        None,
    ),
    "camera": (Annotated[CameraType | None, _look("--camera", help="How the camera moves.")], None),
    "camera_axis": (
        Annotated[
            list[str] | None,
            _look("--camera-axis", metavar="AXIS=NUMBER", help="For --camera simple, for example zoom=5."),
        ],
        None,
    ),
    "watermark": (Annotated[bool, _look("--watermark", help="Also make a copy with a watermark.")], False),
    "multi_shot": (Annotated[bool, _shots("--multi-shot", help="Make several shots; see --shot-type.")], False),
    "shot_type": (
        Annotated[
            ShotType | None,
            _shots(
                "--shot-type",
                help="customize takes each --shot, intelligence cuts PROMPT into shots. Implies --multi-shot.",
            ),
        ],
        None,
    ),
    "shot": (
        Annotated[
            list[str] | None,
            _shots(
                "--shot",
                metavar="SECONDS:PROMPT",
                help="One shot, for example '3:a fox wakes'; repeatable. Implies --shot-type customize; "
                "--duration is then their sum.",
            ),
        ],
        None,
    ),
}


def takes_video(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command these options; the function gets them as its second argument, a :class:`VideoOptions`."""

    @functools.wraps(function)
    def wrapper(shared: Any, **values: Any) -> None:
        function(shared, _read({name: values.pop(name) for name in _OPTIONS}), **values)

    own = list(inspect.signature(function, eval_str=True).parameters.values())
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _OPTIONS.items()
    ]
    rest = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own[2:]]
    wrapper.__signature__ = inspect.Signature([own[0], *options, *rest])  # pyright: ignore[reportAttributeAccessIssue]
    return wrapper


def _read(values: Mapping[str, Any]) -> VideoOptions:
    if not values["prompt"] and not values["shot"]:
        raise typer.BadParameter("say what the video shows", param_hint="PROMPT")
    return VideoOptions(
        prompt=values["prompt"],
        negative_prompt=values["negative_prompt"],
        model=values["model"],
        mode=values["mode"],
        duration=values["duration"],
        aspect_ratio=values["aspect_ratio"],
        cfg_scale=values["cfg_scale"],
        sound=values["sound"],
        camera=values["camera"],
        camera_axes=values["camera_axis"] or (),
        multi_shot=values["multi_shot"],
        shot_type=values["shot_type"],
        shots=values["shot"] or (),
        voices=values["voice"] or (),
        watermark=values["watermark"],
    )
