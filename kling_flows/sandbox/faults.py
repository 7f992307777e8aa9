"""Faults on demand: rules that say which calls go wrong, and how.

A rule is a JSON object; ``PUT /sandbox/faults`` takes an array of them, and the first one that hits a call decides.
``fault`` says what goes wrong, ``on`` which kind of call it hits: ``create``, ``get`` (one task, or up to 20 by id),
``list`` (pages of tasks), ``download``, ``account`` (costs and billing) or ``callback``. One vocabulary serves both
dialects and CometAPI's surface. :class:`Rule` has the other fields.

Calls that get no answer, or none in time (any call):
    ``drop_before_accept``, ``accept_then_drop`` (create), ``hang``, ``slow``, ``reset_mid_body``, ``drip``.
Errors (any call):
    ``http_error`` with ``code``, ``status`` and ``message`` answers every row of the error tables (fact sheet 1.4, 2.5,
    7.1, 7.4); an integer ``code`` is Kling's, a text is that of CometAPI's own envelope, none at all is an error of the
    surface itself. ``concurrency`` and ``throttle`` are 429/1303 and 429/1302. ``html`` is a gateway's page.
Answers that cannot be read (any call; the last three not a download):
    ``empty``, ``truncated_json``, ``wrong_length``, ``giant_headers``, ``gzip_bomb``, ``missing_data``, ``deep_json``,
    ``invalid_utf8``.
Results (the tasks in the answer of a get or a list; ``match`` chooses among them):
    ``succeed_without_url``, ``video_expired`` (also a download), ``unknown_status`` (also a callback).
Orders (create):
    ``fail``: the task will end as failed, for the reason in ``message``. It joins any other fault of the same create.
Downloads:
    ``video_truncated``, ``video_wrong_length``, ``video_html``, ``video_expired``.
Callbacks (each event is hit by one rule; ``state`` chooses among a task's events):
    ``lost``, ``duplicated``, ``slow``, ``forged``, ``unknown_status``; and, for a task as a whole and decided at its
    create, ``early`` and ``reordered``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from kling_flows.upstream.constants import StatusWord


class Operation(StrEnum):
    """A kind of call."""

    CREATE = "create"
    GET = "get"
    LIST = "list"
    DOWNLOAD = "download"
    ACCOUNT = "account"
    CALLBACK = "callback"


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
    #: The whole true answer under a Content-Length that promises more, before the connection closes.
    WRONG_LENGTH = "wrong_length"
    #: The true answer, then a blank every ``seconds`` (0.05) for as long as the caller stays: it never ends.
    DRIP = "drip"
    #: The true answer behind a header of 1 MiB.
    GIANT_HEADERS = "giant_headers"
    #: A small body in gzip that expands to 1 GiB, with ``status`` (200).
    GZIP_BOMB = "gzip_bomb"
    #: Kling's envelope with code 0 and without ``data``.
    MISSING_DATA = "missing_data"
    #: Kling's envelope with 100,000 nested arrays as its ``data``.
    DEEP_JSON = "deep_json"
    #: The true answer with two bytes in it that are no UTF-8.
    INVALID_UTF8 = "invalid_utf8"
    #: The task has the status ``message`` ("reviewing"), which nobody knows.
    UNKNOWN_STATUS = "unknown_status"
    #: The accepted task ends as failed, for the reason ``message``.
    FAIL = "fail"
    #: The event is never sent.
    LOST = "lost"
    #: The event is sent twice, with the same id.
    DUPLICATED = "duplicated"
    #: ``processing`` is sent after the end of the task.
    REORDERED = "reordered"
    #: The first event is sent before the answer of the create.
    EARLY = "early"
    #: Before the true event, one with another status and a signature made with another secret.
    FORGED = "forged"


class Acceptance(StrEnum):
    """What happens to the order when its create goes wrong."""

    #: It is accepted before the fault.
    YES = "yes"
    #: It is accepted ``seconds`` later, whatever the caller does meanwhile.
    LATE = "late"
    #: It is lost.
    NO = "no"


#: Faults of one event, and of all events of one task.
EVENT_FAULTS: Final = frozenset({Fault.LOST, Fault.DUPLICATED, Fault.FORGED, Fault.SLOW, Fault.UNKNOWN_STATUS})
EVENTS_FAULTS: Final = frozenset({Fault.REORDERED, Fault.EARLY})
_CALLBACK_ONLY: Final = frozenset({Fault.LOST, Fault.DUPLICATED, Fault.FORGED}) | EVENTS_FAULTS
#: Faults of an answer in JSON.
_JSON_ONLY: Final = frozenset({Fault.MISSING_DATA, Fault.DEEP_JSON, Fault.INVALID_UTF8})
#: Faults of a create that mostly strike after the order was accepted.
_ACCEPTED: Final = frozenset(
    {
        Fault.ACCEPT_THEN_DROP,
        Fault.EMPTY,
        Fault.SLOW,
        Fault.RESET_MID_BODY,
        Fault.TRUNCATED_JSON,
        Fault.WRONG_LENGTH,
        Fault.DRIP,
        Fault.GIANT_HEADERS,
        Fault.GZIP_BOMB,
        Fault.MISSING_DATA,
        Fault.DEEP_JSON,
        Fault.INVALID_UTF8,
        Fault.FAIL,
    }
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
    Fault.UNKNOWN_STATUS: Operation.GET,
    Fault.FAIL: Operation.CREATE,
    Fault.LOST: Operation.CALLBACK,
    Fault.DUPLICATED: Operation.CALLBACK,
    Fault.REORDERED: Operation.CALLBACK,
    Fault.EARLY: Operation.CALLBACK,
    Fault.FORGED: Operation.CALLBACK,
}


class Rule(BaseModel):
    """One fault rule, as it is written in JSON.

    Args:
        fault: What goes wrong.
        on: The kind of call that it hits; may be left out where only one makes sense.
        rate: Share of the matching calls that it hits.
        times: Hits after which it disarms itself.
        code: Code of an ``http_error``: an integer is Kling's, a text goes into CometAPI's envelope (official surface:
            an error without a code of its own).
        status: HTTP status of ``http_error``, ``html``, ``empty`` or ``gzip_bomb``.
        message: Text of ``http_error``, ``concurrency`` or ``throttle`` instead of the usual one; the reason of
            ``fail``; the word of ``unknown_status``.
        seconds: Delay of ``slow``, of a late acceptance, until a ``hang`` ends, or between the blanks of a ``drip``.
        match: It hits only tasks with this in their prompt or external id; a list or an account call as a whole
            matches nothing.
        state: It hits only callbacks of this state (in legacy's words).
        accept: What happens to the order on a create. By default it is accepted where the fault strikes the answer
            (``accept_then_drop``, ``slow``, ``reset_mid_body``, ``empty`` and all that cannot be read), and lost with
            the others. With ``no``, a fault that deforms the true answer deforms an error 500 instead.
        retry_after: Seconds for a ``Retry-After`` header of ``http_error``, ``concurrency`` or ``throttle``; the real
            service is not known to send one (fact sheet 7.4).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fault: Fault
    on: Operation
    rate: float = Field(default=1.0, ge=0, le=1)
    times: int | None = Field(default=None, ge=1)
    code: int | str | None = None
    status: int | None = Field(default=None, ge=200, le=599)
    message: str | None = None
    seconds: float | None = Field(default=None, ge=0)
    match: str | None = None
    state: StatusWord | None = None
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
        if self.fault in _JSON_ONLY and self.on is Operation.DOWNLOAD:
            raise ValueError(f"{self.fault} is no fault of a download")
        if (self.on is Operation.CALLBACK) != (self.fault in _CALLBACK_ONLY) and not (
            self.on is Operation.CALLBACK and self.fault in EVENT_FAULTS
        ):
            raise ValueError(f"{self.fault} is no fault of a {self.on}")
        if self.state is not None and (self.on is not Operation.CALLBACK or self.fault in EVENTS_FAULTS):
            raise ValueError("state chooses among the events of callbacks")
        if self.fault is Fault.VIDEO_EXPIRED and self.on not in (Operation.DOWNLOAD, Operation.GET, Operation.LIST):
            raise ValueError("video_expired is a fault of a download, a get or a list")
        if self.fault is Fault.SUCCEED_WITHOUT_URL and self.on not in (Operation.GET, Operation.LIST):
            raise ValueError("succeed_without_url is a fault of a get or a list")
        if self.fault is Fault.UNKNOWN_STATUS and self.on not in (Operation.GET, Operation.LIST, Operation.CALLBACK):
            raise ValueError("unknown_status is a fault of a get, a list or a callback")
        if self.fault is Fault.FAIL and self.on is not Operation.CREATE:
            raise ValueError("fail is a fault of a create")
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
