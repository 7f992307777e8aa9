"""The fault rules in force, and which calls they hit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

from kling_flows.sandbox.faults import EVENT_FAULTS, EVENTS_FAULTS, Fault, Operation, Rule
from kling_flows.upstream.constants import StatusWord

#: Faults that show in a result and not in the call as a whole; they meet only tasks that have succeeded.
_RESULT_FAULTS: Final = frozenset({Fault.SUCCEED_WITHOUT_URL, Fault.VIDEO_EXPIRED})
#: Faults that a task shows in any state.
_TASK_FAULTS: Final = frozenset({Fault.UNKNOWN_STATUS})
#: Faults that decide how an order ends.
_ORDER_FAULTS: Final = frozenset({Fault.FAIL})
#: Faults that show inside of an answer, but for a download's.
_INSIDE: Final = _RESULT_FAULTS | _TASK_FAULTS | _ORDER_FAULTS
_NONE: Final[frozenset[Fault]] = frozenset()


class _ArmedRule:
    """A rule and how often it has hit."""

    def __init__(self, rule: Rule, seed: str) -> None:
        self.rule = rule
        self.fired = 0
        self._random = random.Random(seed)

    def hits(self, text: str) -> bool:
        if self.rule.times is not None and self.fired >= self.rule.times:
            return False
        if self.rule.match is not None and self.rule.match not in text:
            return False
        if self._random.random() >= self.rule.rate:
            return False
        self.fired += 1
        return True


class FaultBoard:
    """The rules in force.

    Args:
        seed: Which calls a rate hits depends on it, on the rule's place and on the count of matching calls alone.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._armed: list[_ArmedRule] = []

    def replace(self, rules: Sequence[Rule]) -> None:
        """Put these rules in force instead of the present ones."""
        self._armed = [_ArmedRule(rule, f"{self._seed}:{number}") for number, rule in enumerate(rules)]

    @property
    def armed(self) -> bool:
        """Whether there are any rules."""
        return bool(self._armed)

    def for_call(self, operation: Operation, text: str) -> Rule | None:
        """The rule that hits a call as a whole, if one does; ``text`` is what ``match`` looks at."""
        # On a download, video_expired is the call as a whole.
        return self._first(operation, text, without=_NONE if operation is Operation.DOWNLOAD else _INSIDE)

    def for_task(self, operation: Operation, text: str, *, succeeded: bool) -> Rule | None:
        """The rule that hits one task in the answer of a get or a list, if one does."""
        return self._first(operation, text, _TASK_FAULTS | _RESULT_FAULTS if succeeded else _TASK_FAULTS)

    def for_order(self, text: str) -> Rule | None:
        """The rule that decides how an accepted order ends, if one does."""
        return self._first(Operation.CREATE, text, _ORDER_FAULTS)

    def for_events(self, text: str) -> Rule | None:
        """The rule that hits the callbacks of a task as a whole, if one does."""
        return self._first(Operation.CALLBACK, text, EVENTS_FAULTS)

    def for_event(self, text: str, state: StatusWord) -> Rule | None:
        """The rule that hits one callback, if one does."""
        return self._first(Operation.CALLBACK, text, EVENT_FAULTS, state=state)

    def describe(self) -> list[dict[str, Any]]:
        """The rules as JSON, each with the count of its hits as ``fired``."""
        return [armed.rule.model_dump(mode="json", exclude_none=True) | {"fired": armed.fired} for armed in self._armed]

    def _first(
        self,
        operation: Operation,
        text: str,
        only: frozenset[Fault] | None = None,
        without: frozenset[Fault] = _NONE,
        state: StatusWord | None = None,
    ) -> Rule | None:
        for armed in self._armed:
            rule = armed.rule
            if rule.on is not operation or rule.fault in without or (only is not None and rule.fault not in only):
                continue
            if rule.state is not None and rule.state is not state:
                continue
            if armed.hits(text):
                return rule
        return None
