"""What a person sees of video tasks while they change."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kling_flows.cli.client import FINAL_STATES
from kling_flows.cli.describe import age, span, state_text, took
from kling_flows.cli.output import Output, printable
from kling_flows.cli.request import short_id
from kling_flows.v1.video_task_pb2 import VideoTask

_BAR_WIDTH: Final = 28
_STATE_WIDTH: Final = max(len(name) for name in VideoTask.State.keys() if not name.startswith("STATE_"))  # noqa: SIM118
_AT_PROVIDER: Final = frozenset({VideoTask.SUBMITTED, VideoTask.PROCESSING})
#: An estimate never looks like an end.
_ALMOST: Final = 0.97


class Progress(Protocol):
    """Shows changes."""

    def changed(self, task: VideoTask) -> None:
        """Show the task as it is now."""
        ...

    def shown(self) -> AbstractContextManager[object]:
        """The time during which something is shown."""
        ...


def progress_for(output: Output, *, rows: int) -> Progress:
    """What suits the terminal.

    Args:
        output: Where to show it.
        rows: How many tasks there will be.
    """
    if output.quiet:
        return NoProgress()
    if output.err.is_terminal and 2 * rows < output.err.height:
        return LiveProgress(output)
    return LineProgress(output)


class NoProgress:
    """Shows nothing."""

    def changed(self, task: VideoTask) -> None:
        """Nothing."""

    def shown(self) -> AbstractContextManager[object]:
        """Nothing."""
        return nullcontext()


@dataclass(slots=True)
class _Shown:
    """What the lines have said of one task."""

    state: VideoTask.State.ValueType = VideoTask.STATE_UNSPECIFIED
    error: str = ""
    facts: set[str] = field(default_factory=set[str])


class LineProgress:
    """One plain line for each change of a state or of what keeps a task from going on; each fact is said once.

    Args:
        output: Where to print.
        result: Whether the lines are what was asked for, not an accompaniment of it.
    """

    def __init__(self, output: Output, *, result: bool = False) -> None:
        self._console = output.out if result else output.err
        self._tell_ends = result
        self._shown: dict[str, _Shown] = {}

    def changed(self, task: VideoTask) -> None:
        """Print a line, unless nothing has changed that a line would say."""
        shown = self._shown.setdefault(task.name, _Shown())
        if (task.state, task.error.message) == (shown.state, shown.error):
            return
        shown.state, shown.error = task.state, task.error.message
        final = task.state in FINAL_STATES
        facts = _facts(task) if self._tell_ends or not final else []
        line = Text.assemble(
            (time.strftime("%H:%M:%S "), "dim"),
            f"{short_id(task.name)} ",
            state_text(task.state),
            *(f"  {fact}" for fact in facts if fact not in shown.facts),
        )
        shown.facts.update(facts)
        if final:
            del self._shown[task.name]
        self._console.print(line, soft_wrap=True)

    def shown(self) -> AbstractContextManager[object]:
        """Nothing to begin or to end."""
        return nullcontext()


class LiveProgress:
    """A picture on the terminal that is drawn anew several times a second.

    Args:
        output: Where to draw.
    """

    def __init__(self, output: Output) -> None:
        self._tasks: dict[str, VideoTask] = {}
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            console=output.err,
            get_renderable=self._picture,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
        )

    def changed(self, task: VideoTask) -> None:
        """Take the task into the next picture."""
        self._tasks[task.name] = task

    def shown(self) -> AbstractContextManager[object]:
        """The picture; it goes away at the end, for the result to take its place."""
        return self._live

    def _picture(self) -> RenderableType:
        # Drawn on a thread of its own.
        tasks = list(self._tasks.values())
        rows = Table.grid(padding=(0, 1))
        rows.add_column()
        rows.add_column(no_wrap=True)
        # As wide as the longest, so that what follows stays where it is.
        rows.add_column(min_width=_STATE_WIDTH)
        for task in tasks:
            final = task.state in FINAL_STATES
            rows.add_row(
                Text("•", state_text(task.state).style) if final else self._spinner,
                short_id(task.name),
                state_text(task.state),
                "" if final else _bar(task),
                span(took(task)) + _at_provider(task),
            )
        return Group(rows, *(Text("  " + line, "dim", overflow="ellipsis", no_wrap=True) for line in _below(tasks)))


def _bar(task: VideoTask) -> ProgressBar:
    typical = _typical_seconds(task)
    if not typical or task.state not in (*_AT_PROVIDER, VideoTask.ARCHIVING):
        return ProgressBar(pulse=True, width=_BAR_WIDTH)
    done = 1.0 if task.state == VideoTask.ARCHIVING else age(task.upstream.submit_time) / typical
    return ProgressBar(total=1.0, completed=min(done, _ALMOST), width=_BAR_WIDTH)


def _at_provider(task: VideoTask) -> str:
    typical = _typical_seconds(task)
    if not typical or task.state not in _AT_PROVIDER:
        return ""
    since = age(task.upstream.submit_time)
    rest = f"longer than the usual {span(typical)}" if since > typical else f"of about {span(typical)}"
    return f", at the provider {span(since)} {rest}"


def _typical_seconds(task: VideoTask) -> float:
    return task.typical_duration.ToTimedelta().total_seconds()


def _below(tasks: Sequence[VideoTask]) -> list[str]:
    if len(tasks) != 1:
        return [f"{short_id(task.name)}: {printable(task.error.message)}" for task in tasks if task.error.message]
    [task] = tasks
    facts = [f"upstream {task.upstream.task_id}"] if task.upstream.task_id else []
    if task.flow_run.url:
        facts.append(task.flow_run.url)
    lines = ["   ".join(facts)] if facts else []
    if task.error.message:
        lines.append(printable(task.error.message))
    return lines


def _facts(task: VideoTask) -> list[str]:
    facts: list[str] = []
    if task.upstream.task_id:
        facts.append(f"upstream {task.upstream.task_id}")
    if task.typical_duration.ToTimedelta() and task.state in _AT_PROVIDER:
        facts.append(f"typically {span(_typical_seconds(task))}")
    if task.flow_run.url:
        facts.append(task.flow_run.url)
    if task.error.message:
        facts.append(printable(task.error.message))
    return facts
