"""What a person sees of video tasks while they change."""

from __future__ import annotations

import time
from collections import Counter
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
from kling_flows.cli.describe import span, state_text, took
from kling_flows.cli.estimate import (
    AT_PROVIDER,
    seconds_at_provider,
    seconds_left,
    seconds_left_of_all,
    typical_seconds,
)
from kling_flows.cli.output import Output, printable
from kling_flows.cli.request import short_id
from kling_flows.v1.video_task_pb2 import VideoTask

_BAR_WIDTH: Final = 28
_STATE_WIDTH: Final = max(len(name) for name in VideoTask.State.keys() if not name.startswith("STATE_"))  # noqa: SIM118
#: An estimate never looks like an end.
_ALMOST: Final = 0.97
#: Lines of the picture that are no task's, and one for the prompt after it.
_OTHER_LINES: Final = 4


class Progress(Protocol):
    """Shows changes."""

    def changed(self, task: VideoTask) -> None:
        """Show the task as it is now."""
        ...

    def shown(self) -> AbstractContextManager[object]:
        """The time during which something is shown."""
        ...


def progress_for(output: Output) -> Progress:
    """What suits the terminal."""
    if output.quiet:
        return NoProgress()
    if output.err.is_terminal:
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
        self._console = output.err
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
        fitting = _fitting(tasks, self._console.height)
        rows = Table.grid(padding=(0, 1))
        rows.add_column()
        rows.add_column(no_wrap=True)
        # As wide as the longest, so that what follows stays where it is.
        rows.add_column(min_width=_STATE_WIDTH)
        for task in fitting:
            final = task.state in FINAL_STATES
            rows.add_row(
                Text("•", state_text(task.state).style) if final else self._spinner,
                short_id(task.name),
                state_text(task.state),
                "" if final else _bar(task),
                span(took(task)) + _at_provider(task),
            )
        below = (Text("  " + line, "dim", overflow="ellipsis", no_wrap=True) for line in _below(tasks, fitting))
        return Group(*([_summary(tasks)] if len(tasks) > 1 else []), rows, *below)


def _fitting(tasks: Sequence[VideoTask], height: int) -> Sequence[VideoTask]:
    """Those that there is room for: each may have a line below; the furthest of those that go on come first."""
    room = max((height - _OTHER_LINES) // 2, 1)
    if len(tasks) <= room:
        return tasks
    return sorted(tasks, key=lambda task: (task.state in FINAL_STATES, -task.state))[:room]


def _summary(tasks: Sequence[VideoTask]) -> RenderableType:
    elapsed = max(map(took, tasks))
    done = sum(task.state in FINAL_STATES for task in tasks)
    counts = Counter(task.state for task in tasks)
    states = (Text.assemble(f"{count} ", state_text(state)) for state, count in sorted(counts.items()))
    left = seconds_left_of_all(tasks, elapsed)
    row = Table.grid(padding=(0, 1))
    row.add_row(
        ProgressBar(total=len(tasks), completed=done, width=_BAR_WIDTH),
        f"{done} of {len(tasks)} done",
        Text(", ").join(states),
        span(elapsed) + ("" if left is None else f", about {span(left)} left"),
    )
    return row


def _bar(task: VideoTask) -> ProgressBar:
    typical = typical_seconds(task)
    if not typical or task.state not in (*AT_PROVIDER, VideoTask.ARCHIVING):
        return ProgressBar(pulse=True, width=_BAR_WIDTH)
    done = 1.0 if task.state == VideoTask.ARCHIVING else seconds_at_provider(task) / typical
    return ProgressBar(total=1.0, completed=min(done, _ALMOST), width=_BAR_WIDTH)


def _at_provider(task: VideoTask) -> str:
    typical = typical_seconds(task)
    if not typical or task.state not in AT_PROVIDER:
        return ""
    left = seconds_left(task)
    rest = f"longer than the usual {span(typical)}" if left is None else f"of about {span(typical)}, {span(left)} left"
    return f", at the provider {span(seconds_at_provider(task))} {rest}"


def _below(tasks: Sequence[VideoTask], fitting: Sequence[VideoTask]) -> list[str]:
    if len(tasks) != 1:
        lines = [f"{short_id(task.name)}: {printable(task.error.message)}" for task in fitting if task.error.message]
        more = len(tasks) - len(fitting)
        return [*lines, f"and {more} more"] if more else lines
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
    if task.typical_duration.ToTimedelta() and task.state in AT_PROVIDER:
        facts.append(f"typically {span(typical_seconds(task))}")
    if task.flow_run.url:
        facts.append(task.flow_run.url)
    if task.error.message:
        facts.append(printable(task.error.message))
    return facts
