"""Video tasks in words for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from urllib.parse import unquote, urlsplit

from google.protobuf.timestamp_pb2 import Timestamp
from rich.table import Table
from rich.text import Text

from kling_flows.cli.output import printable
from kling_flows.cli.request import short_id
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import Artifact, VideoTask

_STYLES: Final = {
    VideoTask.SUCCEEDED: "green",
    VideoTask.FAILED: "red",
    VideoTask.EXPIRED: "red",
    VideoTask.LOST: "bold red",
    VideoTask.CANCELLED: "yellow",
    VideoTask.UNRESOLVED: "bold red",
    VideoTask.QUEUED: "dim",
}
_PROMPT_COLUMN: Final = 60


def state_name(state: VideoTask.State.ValueType) -> str:
    """The state's name, also of one that a later server has added."""
    return VideoTask.State.Name(state) if state in VideoTask.State.values() else f"STATE_{state}"


def state_text(state: VideoTask.State.ValueType) -> Text:
    """The state in its colour."""
    return Text(state_name(state), _STYLES.get(state, "cyan"))


def plain_path(uri: str) -> str:
    """A path for what is a file on this machine, the URI for everything else."""
    parts = urlsplit(uri)
    return unquote(parts.path) if parts.scheme == "file" else uri


def video_of(task: VideoTask) -> Artifact | None:
    """The video itself; None if there is none yet."""
    return next((artifact for artifact in task.artifacts if artifact.kind == Artifact.VIDEO), None)


def size(count: int) -> str:
    """A number of bytes, for people."""
    if count < 1_000_000:
        return f"{count / 1_000:.0f} kB"
    return f"{count / 1_000_000:.1f} MB"


def span(seconds: float) -> str:
    """A length of time: ``0:07``, ``12:34``, ``1:02:03``."""
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def when(timestamp: Timestamp) -> str:
    """A moment in this machine's time zone."""
    return timestamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(timestamp: Timestamp) -> float:
    """Seconds since a moment; 0 if this machine's clock says that it is yet to come."""
    return max((datetime.now(UTC) - timestamp.ToDatetime(UTC)).total_seconds(), 0.0)


def took(task: VideoTask) -> float:
    """Seconds from the task's creation to its end, or until now."""
    if task.HasField("end_time"):
        return (task.end_time.ToDatetime() - task.create_time.ToDatetime()).total_seconds()
    return age(task.create_time)


def video_lines(task: VideoTask) -> Text:
    """Where the files are and what is known of them."""
    return rows_text([("task", short_id(task.name)), *_artifacts(task), *_cost(task)])


def all_lines(task: VideoTask) -> Text:
    """Everything about one task."""
    rows = [("name", task.name), ("state", state_name(task.state))]
    if task.error.message:
        rows.append(("error", task.error.message))
    rows.append(("created", when(task.create_time)))
    if task.HasField("end_time"):
        rows.append(("ended", f"{when(task.end_time)}, after {span(took(task))}"))
    else:
        rows.append(("changed", f"{when(task.update_time)} (revision {task.revision})"))
    if task.HasField("text_to_video"):
        rows.extend(_spec(task.text_to_video))
    rows.extend(("label", f"{key}={value}") for key, value in sorted(task.labels.items()))
    rows.extend(_upstream(task))
    if task.HasField("flow_run"):
        rows.append(("flow run", task.flow_run.url or task.flow_run.name))
    return rows_text([*rows, *_artifacts(task), *_cost(task)])


def table(tasks: Iterable[VideoTask]) -> Table:
    """One row for each task."""
    result = Table(box=None, pad_edge=False, header_style="bold")
    result.add_column("ID", no_wrap=True, overflow="fold")
    result.add_column("STATE", no_wrap=True)
    result.add_column("CREATED", no_wrap=True)
    result.add_column("TIME", no_wrap=True, justify="right")
    result.add_column("PROMPT", no_wrap=True, overflow="ellipsis", max_width=_PROMPT_COLUMN)
    for task in tasks:
        prompt = task.text_to_video.prompt or " | ".join(shot.prompt for shot in task.text_to_video.multi_prompt)
        result.add_row(
            short_id(task.name), state_text(task.state), when(task.create_time), span(took(task)), printable(prompt)
        )
    return result


def rows_text(rows: Iterable[tuple[str, str]]) -> Text:
    """Names and values, one pair on each line."""
    lines = [Text.assemble((f"{name:<12}", "dim"), printable(value)) for name, value in rows]
    return Text("\n").join(lines)


def _spec(spec: TextToVideo) -> list[tuple[str, str]]:
    words = [
        spec.model_name,
        {TextToVideo.STD: "std", TextToVideo.PRO: "pro", TextToVideo.FOUR_K: "4k"}.get(spec.mode, ""),
        f"{spec.duration} s" if spec.duration else "",
        spec.aspect_ratio,
        "with sound" if spec.sound == TextToVideo.ON else "",
    ]
    rows = [("prompt", spec.prompt)] if spec.prompt else []
    for number, shot in enumerate(spec.multi_prompt, 1):
        rows.append((f"shot {number}", f"{shot.duration} s: {shot.prompt}"))
    if spec.negative_prompt:
        rows.append(("without", spec.negative_prompt))
    if any(words):
        rows.append(("model", ", ".join(word for word in words if word)))
    return rows


def _upstream(task: VideoTask) -> list[tuple[str, str]]:
    if not task.HasField("upstream"):
        return []
    upstream = task.upstream
    rows = [("provider", f"{upstream.provider}, account {upstream.account}")]
    if upstream.task_id:
        status = f" ({upstream.status})" if upstream.status else ""
        rows.append(("upstream", f"{upstream.task_id}{status}"))
    if upstream.submit_attempts > 1:
        rows.append(("sent", f"{upstream.submit_attempts} times, under the one id {upstream.external_task_id}"))
    return rows


def _artifacts(task: VideoTask) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for artifact in task.artifacts:
        rows.append(("video" if artifact.kind == Artifact.VIDEO else "watermarked", plain_path(artifact.uri)))
        length = f", {artifact.duration_seconds:g} s" if artifact.duration_seconds else ""
        rows.append(("size", f"{size(artifact.size_bytes)} ({artifact.size_bytes} bytes){length}"))
        rows.append(("sha256", artifact.sha256.hex()))
    return rows


def _cost(task: VideoTask) -> list[tuple[str, str]]:
    if task.cost.settled_units:
        return [("cost", f"{task.cost.settled_units} units")]
    if task.cost.quoted_units:
        return [("cost", f"about {task.cost.quoted_units} units (US$ {task.cost.quoted_usd})")]
    return []
