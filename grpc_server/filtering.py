"""The filter of List and Watch: conditions joined by AND, read once, used for SQL and in memory alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypedDict, cast

from google.protobuf.timestamp_pb2 import Timestamp

from kling_flows.errors import Violation
from kling_flows.ledger import TRANSITIONS, State, TimeBound, VideoTask

EXAMPLE: Final = 'state = SUCCEEDED AND labels.team = "ads"'

#: A task has at most 32 labels, a state, a model and two times; more conditions repeat or contradict each other.
_MOST_CONDITIONS: Final = 40
_SHOWN: Final = 30

_CONDITION: Final = re.compile(
    r"""\s*(?:(?:(?P<word>state|model_name|tenant)|labels\.(?P<key>[a-z][a-z0-9_.-]{0,62}))\s*="""
    r"""|(?P<time>create_time|end_time)\s*(?P<comparison>[<>]=?))\s*"""
    r"""(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[A-Za-z0-9_.:/@+-]+))""",
    re.DOTALL,
)
_AND: Final = re.compile(r"\s+AND\s+")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)

#: Which states a task may have been in just before the event that shows it in this one.
_BEFORE: Final[Mapping[State, frozenset[State]]] = {
    state: frozenset(earlier for earlier, following in TRANSITIONS.items() if state in following) for state in State
}


class LedgerConditions(TypedDict):
    """What of a query a filter says."""

    states: tuple[State, ...]
    label_values: tuple[tuple[str, str], ...]
    model_name: str | None
    times: tuple[TimeBound, ...]


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """What List and Watch select.

    Args:
        state: The state that a task must be in; None means any.
        labels: Label keys and the values that they must have.
        model_name: The model that a task must be for; None means any.
        times: What its times must meet.
        nothing: Conditions contradict each other or name another tenant, so that no task matches.
    """

    state: State | None = None
    labels: tuple[tuple[str, str], ...] = ()
    model_name: str | None = None
    times: tuple[TimeBound, ...] = ()
    nothing: bool = False

    @property
    def query(self) -> LedgerConditions:
        """The same for `Ledger.list_tasks`; a filter that selects nothing has none."""
        return LedgerConditions(
            states=() if self.state is None else (self.state,),
            label_values=self.labels,
            model_name=self.model_name,
            times=self.times,
        )

    def matches(self, task: VideoTask) -> bool:
        """Whether the task, as it is, is selected."""
        return (self.state is None or task.state is self.state) and self._matches_but_for_state(task)

    def may_have_left(self, task: VideoTask) -> bool:
        """Whether the event that brought the task into its state may have been the one that made it stop matching.

        Of all that a filter knows only the state and the end time change. The end time comes with a final state and
        stays, so that only a state can be left, and none that has an end time. If this holds, the state before the
        event decides.
        """
        if self.state not in _BEFORE[task.state] or task.state is self.state:
            return False
        return self._matches_but_for_state(task.model_copy(update={"end_time": None}))

    def _matches_but_for_state(self, task: VideoTask) -> bool:
        return (
            not self.nothing
            and self.model_name in (None, task.request.model_name)
            and all(task.labels.get(key) == value for key, value in self.labels)
            and all(bound.holds(task) for bound in self.times)
        )


def parse_filter(text: str, tenant: str) -> TaskFilter | Violation:
    """Read a filter of a tenant's, or say what is wrong with it; an empty one selects everything that is theirs.

    One that names another tenant selects nothing, whether there is such a tenant or not.
    """
    if not text.strip():
        return TaskFilter()
    found = _Conditions()
    at = 0
    for _ in range(_MOST_CONDITIONS):
        match = _CONDITION.match(text, at)
        if match is None:
            return _unreadable(text, at)
        quoted = match["quoted"]
        value = match["bare"] if quoted is None else _ESCAPED.sub(r"\1", quoted)
        violation = found.add(match, value)
        if violation is not None:
            return violation
        at = match.end()
        if not text[at:].strip():
            return found.as_filter(tenant)
        joint = _AND.match(text, at)
        if joint is None:
            return _unreadable(text, at)
        at = joint.end()
    return _violation("TOO_MANY", f"at most {_MOST_CONDITIONS} conditions")


class _Conditions:
    """The conditions as they are read; dictionaries, because what is repeated counts once."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], None] = {}
        self._labels: dict[tuple[str, str], None] = {}
        self._times: dict[TimeBound, None] = {}

    def add(self, match: re.Match[str], value: str) -> Violation | None:
        """Take one more, or say what is wrong with its value."""
        if match["key"]:
            self._labels[match["key"], value] = None
        elif match["time"]:
            seconds = _seconds(value)
            if seconds is None:
                return _violation(
                    "MALFORMED", f"{value[:_SHOWN]!r} is not a time with a zone, for example 2026-11-01T00:00:00Z"
                )
            field = cast("Literal['create_time', 'end_time']", match["time"])
            self._times[TimeBound(field, match["comparison"], seconds)] = None
        elif match["word"] == "state" and value not in State.__members__:
            return _violation("WRONG_WORD", f"{value[:_SHOWN]!r} is not a state; the states are {', '.join(State)}")
        else:
            self._words[match["word"], value] = None
        return None

    def as_filter(self, tenant: str) -> TaskFilter:
        """All of them together, for a caller of a tenant."""
        words = dict(self._words.keys())
        contradictory = any(len({key for key, _ in pairs}) < len(pairs) for pairs in (self._words, self._labels))
        return TaskFilter(
            state=State(words["state"]) if "state" in words else None,
            labels=tuple(self._labels),
            model_name=words.get("model_name"),
            times=tuple(self._times),
            nothing=contradictory or words.get("tenant", tenant) != tenant,
        )


def _seconds(text: str) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None if it is none."""
    stamp = Timestamp()
    try:
        stamp.FromJsonString(text)
    except ValueError:
        return None
    # One division, as datetime.timestamp() does it: a task's own time compares as equal.
    return stamp.ToNanoseconds() / 10**9


def _unreadable(text: str, at: int) -> Violation:
    rest = text[at:].strip()[:_SHOWN]
    where = f"cannot be read from {rest!r} on" if rest else "ends where a condition is expected"
    return _violation(
        "MALFORMED",
        f"{where}; write conditions on state, model_name, tenant and labels with =, on create_time and end_time with "
        f"<, <=, > or >=, joined by AND, for example: {EXAMPLE}",
    )


def _violation(rule: str, message: str) -> Violation:
    return Violation("filter", rule, message)
