"""The filter of List and Watch: conditions joined by AND, read once, used for SQL and in memory alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from kling_flows.errors import Violation
from kling_flows.ledger import TRANSITIONS, State, VideoTask

EXAMPLE: Final = 'state = SUCCEEDED AND labels.team = "ads"'

#: A task has at most 32 labels and one state; more conditions than that repeat or contradict each other.
_MOST_CONDITIONS: Final = 40
_SHOWN: Final = 30

_CONDITION: Final = re.compile(
    r"""\s*(?:(?P<state>state)|labels\.(?P<key>[a-z][a-z0-9_.-]{0,62}))\s*=\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[A-Za-z0-9_.:/@+-]+))""",
    re.DOTALL,
)
_AND: Final = re.compile(r"\s+AND\s+")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

#: Which states a task may have been in just before the event that shows it in this one.
_BEFORE: Final[Mapping[State, frozenset[State]]] = {
    state: frozenset(earlier for earlier, following in TRANSITIONS.items() if state in following) for state in State
}


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What List and Watch select.

    Args:
        state: The state that a task must be in; None means any.
        labels: Label keys and the values that they must have.
        nothing: Conditions contradict each other, so that no task matches.
    """

    state: State | None = None
    labels: tuple[tuple[str, str], ...] = ()
    nothing: bool = False

    @property
    def states(self) -> tuple[State, ...]:
        """The states to ask the ledger for; empty means any."""
        return () if self.state is None else (self.state,)

    def matches(self, task: VideoTask) -> bool:
        """Whether the task, as it is, is selected."""
        return (self.state is None or task.state is self.state) and self._has_labels(task)

    def may_have_left(self, task: VideoTask) -> bool:
        """Whether the event that brought the task into its state may have been the one that made it stop matching.

        Labels never change, so only a state can be left; if this holds, the state before the event decides.
        """
        return self.state in _BEFORE[task.state] and task.state is not self.state and self._has_labels(task)

    def _has_labels(self, task: VideoTask) -> bool:
        return not self.nothing and all(task.labels.get(key) == value for key, value in self.labels)


def parse_filter(text: str) -> TaskFilter | Violation:
    """Read a filter, or say what is wrong with it; an empty one selects everything."""
    if not text.strip():
        return TaskFilter()
    states: set[State] = set()
    labels: dict[tuple[str, str], None] = {}
    at = 0
    for _ in range(_MOST_CONDITIONS):
        match = _CONDITION.match(text, at)
        if match is None:
            return _unreadable(text, at)
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if match["state"]:
            if value not in State.__members__:
                return _violation("WRONG_WORD", f"{value[:_SHOWN]!r} is not a state; the states are {', '.join(State)}")
            states.add(State(value))
        else:
            labels[match["key"], value] = None
        at = match.end()
        if not text[at:].strip():
            return TaskFilter(
                state=next(iter(states), None), labels=tuple(labels), nothing=_contradictory(states, labels)
            )
        joint = _AND.match(text, at)
        if joint is None:
            return _unreadable(text, at)
        at = joint.end()
    return _violation("TOO_MANY", f"at most {_MOST_CONDITIONS} conditions")


def _contradictory(states: set[State], labels: Mapping[tuple[str, str], None]) -> bool:
    return len(states) > 1 or len({key for key, _ in labels}) < len(labels)


def _unreadable(text: str, at: int) -> Violation:
    rest = text[at:].strip()[:_SHOWN]
    where = f"cannot be read from {rest!r} on" if rest else "ends where a condition is expected"
    return _violation(
        "MALFORMED", f"{where}; write conditions on state and labels with =, joined by AND, for example: {EXAMPLE}"
    )


def _violation(rule: str, message: str) -> Violation:
    return Violation("filter", rule, message)
