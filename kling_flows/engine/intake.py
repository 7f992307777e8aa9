"""How a wish becomes a video task: checked against the capability map, then one durable record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from kling_flows.engine.identity import check_task_id, new_task_id
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.ledger import LateVideo, QuoteRecord, State, VideoTask
from kling_flows.telemetry.trace_context import current_traceparent
from kling_flows.upstream import Dialect, Provider, Quote, TextToVideoRequest, quote, validate
from kling_flows.upstream.wording import plain

LABEL_LIMIT: Final = 32
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_LABEL_VALUE_LENGTH: Final = 255
_REQUEST_ID: Final = re.compile(r"[!-~]{1,64}")

MOST_PRIORITY: Final = 9

#: A deadline beyond it is a slip: a provider keeps a video for no longer (fact sheet 5).
LONGEST_DEADLINE: Final = timedelta(days=30)

#: Where the request stands in a CreateVideoTaskRequest, for the paths of violations.
REQUEST_PATH: Final = "text_to_video"


def new_video_task(
    request: TextToVideoRequest,
    provider: Provider,
    *,
    tenant: str,
    task_id: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
    account: str = "",
    dialect: Dialect = Dialect.LEGACY,
    priority: int = 0,
    deadline: datetime | None = None,
    on_deadline: LateVideo = LateVideo.KEEP_VIDEO,
) -> VideoTask:
    """A QUEUED task that breaks no rule, with its price; it is not stored yet. It belongs to the current trace, if any.

    Args:
        request: What to make.
        provider: Whose rules apply.
        tenant: Whose it is.
        task_id: Its id; a new one if empty.
        request_id: What the create is repeated under, if at all.
        labels: The caller's own.
        account: Which account will pay (`Account.name`); empty if that is not known here.
        dialect: The provider's API generation.
        priority: 0 to 9; higher goes first.
        deadline: When nobody wants it any more; with a time zone.
        on_deadline: What becomes of the video then.

    Raises:
        InvalidRequest: with all violations.
        ConfigurationError: the provider does not speak the dialect.
    """
    now = datetime.now(UTC)
    labels = labels or {}
    violations = [
        Violation(f"{REQUEST_PATH}.{violation.field}", violation.rule, violation.message)
        for violation in validate(request, provider, dialect)
    ]
    if labels:
        violations.extend(_check_labels(labels))
    if task_id and (violation := check_task_id(task_id, "video_task_id")):
        violations.append(violation)
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        violations.append(Violation("request_id", "MALFORMED", "must be 1 to 64 printable ASCII characters"))
    violations.extend(_check_order(priority, deadline, now))
    if violations:
        raise InvalidRequest(violations)
    return VideoTask(
        id=task_id or new_task_id(),
        tenant=tenant,
        state=State.QUEUED,
        revision=1,
        request=request,
        labels=dict(labels),
        create_time=now,
        update_time=now,
        account=account,
        quote=_quote(request, provider, dialect),
        priority=priority,
        deadline=deadline,
        on_deadline=on_deadline,
        traceparent=current_traceparent(),
    )


def request_digest(
    request: TextToVideoRequest,
    labels: Mapping[str, str],
    task_id: str,
    *,
    priority: int = 0,
    deadline: datetime | None = None,
    on_deadline: LateVideo = LateVideo.KEEP_VIDEO,
) -> str:
    """A fingerprint of what a create asks for, to tell a repetition from another body."""
    digest = hashlib.sha256(request.model_dump_json().encode())
    for key in sorted(labels):
        digest.update(f"\0{key}\0{labels[key]}".encode())
    digest.update(f"\1{task_id}".encode())
    if (priority, deadline, on_deadline) != (0, None, LateVideo.KEEP_VIDEO):
        # Left out where nothing is said, so that what an earlier release was asked can be repeated.
        until = "" if deadline is None else deadline.astimezone(UTC).isoformat()
        digest.update(f"\2{priority}\2{until}\2{on_deadline}".encode())
    return digest.hexdigest()


def _quote(request: TextToVideoRequest, provider: Provider, dialect: Dialect) -> QuoteRecord | None:
    try:
        found = quote(request, provider, dialect)
    except InvalidRequest:
        # No price is published. It may be asked for all the same, except where a budget has to vouch for it.
        return None
    return _quote_record(found)


@lru_cache
def _quote_record(found: Quote) -> QuoteRecord:
    return QuoteRecord(units=plain(found.units), usd=plain(found.usd), uncertain=found.uncertain)


def _check_order(priority: int, deadline: datetime | None, now: datetime) -> list[Violation]:
    violations: list[Violation] = []
    if not 0 <= priority <= MOST_PRIORITY:
        violations.append(
            Violation(
                "priority", "OUT_OF_RANGE", f"must be 0 to {MOST_PRIORITY}, {priority} was given; higher goes first"
            )
        )
    if deadline is not None and deadline <= now:
        violations.append(
            Violation(
                "deadline", "IN_THE_PAST", f"{deadline.isoformat()} has passed; leave it out, or name a later time"
            )
        )
    elif deadline is not None and deadline > now + LONGEST_DEADLINE:
        violations.append(
            Violation(
                "deadline", "TOO_LATE", f"at most {LONGEST_DEADLINE.days} days ahead; leave it out for no deadline"
            )
        )
    return violations


def _check_labels(labels: Mapping[str, str]) -> list[Violation]:
    violations: list[Violation] = []
    if len(labels) > LABEL_LIMIT:
        violations.append(Violation("labels", "TOO_MANY", f"at most {LABEL_LIMIT} labels, {len(labels)} were given"))
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            violations.append(Violation("labels", "MALFORMED", f"the key {key[:64]!r} must match {_LABEL_KEY.pattern}"))
        if "\0" in value:
            # PostgreSQL's text cannot hold it.
            violations.append(
                Violation(f"labels[{key[:64]!r}]", "MALFORMED", "must not contain the character NUL (U+0000)")
            )
        if len(value) > _LABEL_VALUE_LENGTH:
            violations.append(
                Violation(f"labels[{key[:64]!r}]", "TOO_LONG", f"at most {_LABEL_VALUE_LENGTH} characters")
            )
    return violations
