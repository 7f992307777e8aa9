"""Dependable Kling AI text-to-video: a Prefect plugin and a gRPC facade on one implementation.

import asyncio
from kling_flows import TextToVideoRequest, text_to_video

task = asyncio.run(text_to_video(TextToVideoRequest(prompt="A paper boat on a quiet river")))
print(task.artifacts[0].uri)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kling_flows.flows import text_to_video, text_to_videos
    from kling_flows.upstream import TextToVideoRequest

__version__ = "0.1.0"

__all__ = ["TextToVideoRequest", "__version__", "text_to_video", "text_to_videos"]

_HOMES = {
    "TextToVideoRequest": "kling_flows.upstream",
    "text_to_video": "kling_flows.flows",
    "text_to_videos": "kling_flows.flows",
}


def __getattr__(name: str) -> Any:
    # On demand: the flows bring Prefect, which takes two seconds to import and which most processes never need.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
