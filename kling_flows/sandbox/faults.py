"""Faults on demand: rules that say which calls go wrong, and how."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator


class Operation(StrEnum):
    """A kind of call."""

    CREATE = "create"
    GET = "get"
    LIST = "list"
    DOWNLOAD = "download"


class Fault(StrEnum):
    """A way to go wrong."""

    #: The order is accepted and charged, then the connection is cut without an answer.
    ACCEPT_THEN_DROP = "accept_then_drop"
    #: The connection is cut without an answer and nothing has happened.
    DROP_BEFORE_ACCEPT = "drop_before_accept"
    #: An error of the service: ``code`` decides the status, or ``status`` does.
    HTTP_ERROR = "http_error"
    #: The true answer, ``seconds`` later.
    SLOW = "slow"
    #: The connection is reset after half of the true answer's body.
    RESET_MID_BODY = "reset_mid_body"
    #: A gateway's HTML page, with ``status`` (502).
    HTML = "html"
    #: Half of the true answer, as if it were whole.
    TRUNCATED_JSON = "truncated_json"
    #: No body, with ``status`` (200).
    EMPTY = "empty"
    #: No answer until the caller gives up, or after ``seconds`` a cut connection.
    HANG = "hang"
    #: 429/1303.
    CONCURRENCY = "concurrency"
    #: 429/1302.
    THROTTLE = "throttle"
    #: A download that ends early, as if it were whole.
    VIDEO_TRUNCATED = "video_truncated"
    #: A download whose Content-Length promises more than comes before the connection closes.
    VIDEO_WRONG_LENGTH = "video_wrong_length"
    #: An HTML page with status 200 where the video should be.
    VIDEO_HTML = "video_html"
    #: On a download: the URL has expired. On a query or list: the URL in the answer has expired.
    VIDEO_EXPIRED = "video_expired"
    #: A task that has succeeded and shows an empty URL (fact sheet 4.2).
    SUCCEED_WITHOUT_URL = "succeed_without_url"


class Acceptance(StrEnum):
    """What happens to the order when its create goes wrong."""

    #: It is accepted before the fault.
    YES = "yes"
    #: It is accepted ``seconds`` later, whatever the caller does meanwhile.
    LATE = "late"
    #: It is lost.
    NO = "no"


#: Faults that show in a result and not in the call as a whole; they meet only tasks that have succeeded.
_RESULT_FAULTS: Final = frozenset({Fault.SUCCEED_WITHOUT_URL, Fault.VIDEO_EXPIRED})
#: Faults of a create that mostly strike after the order was accepted.
_ACCEPTED: Final = frozenset(
    {Fault.ACCEPT_THEN_DROP, Fault.EMPTY, Fault.SLOW, Fault.RESET_MID_BODY, Fault.TRUNCATED_JSON}
)
_DOWNLOAD_ONLY: Final = frozenset({Fault.VIDEO_TRUNCATED, Fault.VIDEO_WRONG_LENGTH, Fault.VIDEO_HTML})
_DEFAULT_OPERATION: Final = {
    Fault.ACCEPT_THEN_DROP: Operation.CREATE,
    Fault.DROP_BEFORE_ACCEPT: Operation.CREATE,
    Fault.CONCURRENCY: Operation.CREATE,
    Fault.THROTTLE: Operation.CREATE,
    Fault.VIDEO_TRUNCATED: Operation.DOWNLOAD,
    Fault.VIDEO_WRONG_LENGTH: Operation.DOWNLOAD,
    Fault.VIDEO_HTML: Operation.DOWNLOAD,
    Fault.VIDEO_EXPIRED: Operation.DOWNLOAD,
    Fault.SUCCEED_WITHOUT_URL: Operation.GET,
}


class Rule(BaseModel):
    """One fault rule, as it is written in JSON.

    Args:
        fault: What goes wrong.
        on: The kind of call that it hits; may be left out where only one makes sense.
        rate: Share of the matching calls that it hits.
        times: Hits after which it disarms itself.
        code: Kling's code of an ``http_error``.
        status: HTTP status of ``http_error``, ``html`` or ``empty``.
        seconds: Delay of ``slow``, of a late acceptance, or until a ``hang`` ends.
        match: It hits only tasks with this in their prompt or external id; a list as a whole matches nothing.
        accept: What happens to the order on a create. By default it is accepted with ``accept_then_drop``, ``slow``,
            ``reset_mid_body``, ``truncated_json`` and ``empty``, and lost with the others. With ``no``, a fault that
            deforms the true answer deforms an error 500 instead.
        retry_after: Seconds for a ``Retry-After`` header of ``http_error``, ``concurrency`` or ``throttle``; the real
            service is not known to send one (fact sheet 7.4).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    on: Operation
    rate: float = Field(default=1.0, ge=0, le=1)
    times: int | None = Field(default=None, ge=1)
    code: int | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    seconds: float | None = Field(default=None, ge=0)
    match: str | None = None
    accept: Acceptance = Acceptance.NO
    retry_after: int | None = Field(default=None, ge=0)

    @property
    def delay(self) -> float:
        """``seconds``, or 1 where none are given."""
        return 1.0 if self.seconds is None else self.seconds

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        filled = dict(cast(dict[str, Any], value))
        try:
            fault = Fault(filled.get("fault"))
        except ValueError:
            return filled
        if filled.get("on") is None and fault in _DEFAULT_OPERATION:
            filled["on"] = _DEFAULT_OPERATION[fault]
        if filled.get("accept") is None:
            filled["accept"] = Acceptance.YES if fault in _ACCEPTED else Acceptance.NO
        return filled

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.fault in _DOWNLOAD_ONLY and self.on is not Operation.DOWNLOAD:
            raise ValueError(f"{self.fault} is a fault of a download")
        if self.fault is Fault.VIDEO_EXPIRED and self.on is Operation.CREATE:
            raise ValueError("video_expired is a fault of a download, a get or a list")
        if self.fault is Fault.SUCCEED_WITHOUT_URL and self.on not in (Operation.GET, Operation.LIST):
            raise ValueError("succeed_without_url is a fault of a get or a list")
        if self.on is Operation.CREATE:
            if self.accept is Acceptance.NO and self.fault is Fault.ACCEPT_THEN_DROP:
                raise ValueError("accept_then_drop is drop_before_accept where the order is lost")
            if self.accept is Acceptance.YES and self.fault is Fault.DROP_BEFORE_ACCEPT:
                raise ValueError("drop_before_accept is accept_then_drop where the order is accepted first")
        return self


_RULES: Final = TypeAdapter(list[Rule])


def parse_rules(rules: object) -> list[Rule]:
    """Check rules decoded from JSON.

    Raises:
        pydantic.ValidationError: A rule is not well formed.
    """
    return _RULES.validate_python(rules)


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
        return self._first(operation, text, result=False)

    def for_result(self, operation: Operation, text: str) -> Rule | None:
        """The rule that hits the result of a succeeded task in a get or a list, if one does."""
        return self._first(operation, text, result=True)

    def describe(self) -> list[dict[str, Any]]:
        """The rules as JSON, each with the count of its hits as ``fired``."""
        return [armed.rule.model_dump(mode="json", exclude_none=True) | {"fired": armed.fired} for armed in self._armed]

    def _first(self, operation: Operation, text: str, *, result: bool) -> Rule | None:
        for armed in self._armed:
            rule = armed.rule
            in_result = rule.fault in _RESULT_FAULTS and rule.on is not Operation.DOWNLOAD
            if rule.on is operation and in_result is result and armed.hits(text):
                return rule
        return None
