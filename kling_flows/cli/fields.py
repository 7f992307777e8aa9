"""Which option of the command line sets which field of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: By the field's path without indexes and without the messages around it.
OPTIONS: Final[Mapping[str, str]] = {
    "prompt": "PROMPT",
    "negative_prompt": "--negative-prompt",
    "model_name": "--model",
    "mode": "--mode",
    "duration": "--duration",
    "aspect_ratio": "--aspect-ratio",
    "cfg_scale": "--cfg-scale",
    "sound": "--sound",
    "camera_control": "--camera",
    "camera_control.config": "--camera-axis",
    "multi_shot": "--multi-shot",
    "shot_type": "--shot-type",
    "multi_prompt": "--shot",
    "voice_list": "--voice",
    "watermark_info": "--watermark",
    "callback_url": "--callback-url",
    "labels": "--label",
    "video_task_id": "--id",
    "request_id": "--request-id",
    "name": "ID",
    "names": "ID",
    "reason": "--reason",
    "filter": "--filter",
    "page_size": "--page-size",
}

_INDEX: Final = re.compile(r"\[[^\]]*\]")
_AROUND: Final = re.compile(r"^(video_task\.)?(text_to_video\.)?")


def option_of(path: str) -> str | None:
    """The option that sets the field at ``path``, or the message that it is in; None if there is none."""
    parts = _AROUND.sub("", _INDEX.sub("", path)).split(".")
    for length in range(len(parts), 0, -1):
        option = OPTIONS.get(".".join(parts[:length]))
        if option is not None:
            return option
    return None
