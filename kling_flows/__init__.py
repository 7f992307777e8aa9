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
    from kling_flows.blocks import CometApiCredentials, KlingCredentials, KlingTextToVideo, VideoArchive
    from kling_flows.flows import audit, reconcile, retention, text_to_video, text_to_videos
    from kling_flows.steps import video_session
    from kling_flows.tasks import archive_video, submit_video, wait_for_video
    from kling_flows.upstream import TextToVideoRequest

__version__ = "0.1.0"

__all__ = [
    "CometApiCredentials",
    "KlingCredentials",
    "KlingTextToVideo",
    "TextToVideoRequest",
    "VideoArchive",
    "__version__",
    "archive_video",
    "audit",
    "reconcile",
    "retention",
    "submit_video",
    "text_to_video",
    "text_to_videos",
    "video_session",
    "wait_for_video",
]

_HOMES = {
    "CometApiCredentials": "kling_flows.blocks",
    "KlingCredentials": "kling_flows.blocks",
    "KlingTextToVideo": "kling_flows.blocks",
    "TextToVideoRequest": "kling_flows.upstream",
    "VideoArchive": "kling_flows.blocks",
    "archive_video": "kling_flows.tasks",
    "audit": "kling_flows.flows",
    "reconcile": "kling_flows.flows",
    "retention": "kling_flows.flows",
    "submit_video": "kling_flows.tasks",
    "text_to_video": "kling_flows.flows",
    "text_to_videos": "kling_flows.flows",
    "video_session": "kling_flows.steps",
    "wait_for_video": "kling_flows.tasks",
}


def __getattr__(name: str) -> Any:
    # On demand: the flows bring Prefect, which takes two seconds to import and which most processes never need.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Prefect looks through a module for its blocks.
    return sorted({*globals(), *__all__})
