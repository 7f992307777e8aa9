"""Shows a video with whatever this machine shows videos with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from kling_flows.cli.describe import plain_path, video_of

if TYPE_CHECKING:
    from kling_flows.cli.output import Output
    from kling_flows.v1.video_task_pb2 import VideoTask


def open_video(task: VideoTask, output: Output) -> None:
    """Open the task's video if it is a file of this machine or an https address; otherwise say why not."""
    video = video_of(task)
    if video is None:
        output.note("There is no video to open.")
        return
    scheme = urlsplit(video.uri).scheme
    place = plain_path(video.uri)
    if scheme == "file" and not Path(place).is_file():
        output.note(f"{place} is not on this machine but on the server's.")
    elif scheme not in ("file", "https"):
        output.note(f"{place} lies in object storage and cannot be opened from here.")
    elif typer.launch(place) != 0:
        output.note(f"Nothing on this machine opens {place}; on Linux it is xdg-open that does.")
