"""Prefect blocks: accounts, the archive, and a video as a job."""

from kling_flows.blocks.archive import VideoArchive
from kling_flows.blocks.credentials import CometApiCredentials, Credentials, KlingCredentials
from kling_flows.blocks.text_to_video import KlingTextToVideo, KlingTextToVideoRun

__all__ = [
    "CometApiCredentials",
    "Credentials",
    "KlingCredentials",
    "KlingTextToVideo",
    "KlingTextToVideoRun",
    "VideoArchive",
]
