"""The Prefect flows."""

from kling_flows.flows.text_to_video import text_to_video
from kling_flows.flows.text_to_videos import text_to_videos

__all__ = ["text_to_video", "text_to_videos"]
