"""Our own copy of each video, in a folder or in object storage."""

from kling_flows.archive.download import Download, SourceExpired
from kling_flows.archive.store import StoredVideo, VideoArchive

__all__ = ["Download", "SourceExpired", "StoredVideo", "VideoArchive"]
