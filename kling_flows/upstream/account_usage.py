"""What the account has left, and what each task took from it (fact sheet 8.3).

Only the names of the fields of an answer are published, and of the billing lists not how their pages are asked for:
times and cursor are sent as in the standard dialect's list of tasks, and answers are read tolerantly, so that a field
which is missing or of another type is empty and costs nothing beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from kling_flows.upstream.body import (
    UnreadableAnswer,
    as_decimal,
    as_mapping,
    as_moment,
    as_sequence,
    as_text,
    in_milliseconds,
    levels,
    request_id_of,
)
from kling_flows.upstream.codec import Ask
from kling_flows.upstream.constants import (
    ACCOUNT_COSTS_PATH,
    BILLING_BALANCE_PATH,
    BILLING_PACKAGE_PATH,
    MAX_CURSOR_LIMIT,
    KlingCode,
)
from kling_flows.upstream.standard import period

#: How far below the answer a list is looked for.
_DEEPEST: Final = 4
_PACKS: Final = "resource_pack_subscribe_infos"
_SUCCESS: Final = frozenset({str(KlingCode.OK.value), "200", ""})
_ON: Final = frozenset({"on", "native", "true", "yes", "1"})
_OFF: Final = frozenset({"off", "false", "no", "0"})


class DeductionKind(StrEnum):
    """Which purse a charge came out of."""

    PACKAGE = "package"
    BALANCE = "balance"


_PATHS: Final[Mapping[DeductionKind, str]] = {
    DeductionKind.PACKAGE: BILLING_PACKAGE_PATH,
    DeductionKind.BALANCE: BILLING_BALANCE_PATH,
}


@dataclass(frozen=True, slots=True)
class ResourcePack:
    """Units that were bought in advance.

    Args:
        id: The provider's id of it.
        name: The provider's name for it.
        type: ``decreasing_total`` or ``constant_period``.
        status: ``toBeOnline``, ``online``, ``expired`` or ``runOut``.
        total: Units that were bought.
        remaining: Units that are left; 12 hours behind.
        purchased_at: UTC.
        effective_at: UTC.
        expires_at: UTC.
    """

    id: str
    name: str
    type: str
    status: str
    total: Decimal | None
    remaining: Decimal | None
    purchased_at: datetime | None
    effective_at: datetime | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class Deduction:
    """What one task was charged with.

    Args:
        task_id: The provider's id of the task.
        model_name: As the provider writes it there.
        resolution: As the provider writes it there.
        duration_seconds: Measured length of the video.
        sound: Whether it has sound; ``None`` if that is not told.
        voice: Whether it uses voices; ``None`` if that is not told.
        time: When it was charged, UTC.
        amount: Units out of a package, money out of the balance.
        unit_before: Units that were there before.
        unit_after: Units that were left.
    """

    task_id: str
    model_name: str
    resolution: str
    duration_seconds: Decimal | None
    sound: bool | None
    voice: bool | None
    time: datetime | None
    amount: Decimal | None
    unit_before: Decimal | None
    unit_after: Decimal | None


@dataclass(frozen=True, slots=True)
class DeductionPage:
    """One page of deductions; an empty ``next_cursor`` means that it is the last one."""

    deductions: tuple[Deduction, ...]
    next_cursor: str


def ask_costs(start: datetime, end: datetime) -> Ask:
    """Return the query for the packs of a period.

    Raises:
        ValueError: A time has no time zone, or there is no time between them.
    """
    period(start, end)
    return Ask("GET", ACCOUNT_COSTS_PATH, {"start_time": in_milliseconds(start), "end_time": in_milliseconds(end)})


def ask_deductions(kind: DeductionKind, start: datetime, end: datetime, cursor: str, limit: int) -> Ask:
    """Return the query for one page of deductions.

    Raises:
        ValueError: ``limit`` is beyond what Kling takes, a time has no time zone, or there is no time between them.
    """
    if not 1 <= limit <= MAX_CURSOR_LIMIT:
        raise ValueError(f"limit goes from 1 to {MAX_CURSOR_LIMIT}")
    body = {**period(start, end), "limit": limit, **({"cursor": cursor} if cursor else {})}
    return Ask("POST", _PATHS[kind], body=body)


def parse_costs(payload: Mapping[str, Any]) -> tuple[ResourcePack, ...]:
    """Read the packs; an account without any gets an answer without the list.

    Raises:
        UnreadableAnswer: There is no ``data``, or a code inside of it says no.
    """
    data = as_mapping(payload.get("data"))
    if data is None:
        raise UnreadableAnswer("the answer holds no data")
    _check_inner(payload, data)
    return tuple(_pack(pack) for pack in map(as_mapping, as_sequence(data.get(_PACKS)) or ()) if pack is not None)


def parse_deductions(payload: Mapping[str, Any]) -> DeductionPage:
    """Read one page of deductions: the list is the answer's outermost one, whatever it is called.

    Raises:
        UnreadableAnswer: There is no list, or a code inside of ``data`` says no.
    """
    for level in levels(payload):
        if level is not payload:
            _check_inner(payload, level)
    objects = list(_objects(payload))
    items = next(
        (found for each in objects for value in each.values() if (found := as_sequence(value)) is not None), None
    )
    if items is None:
        raise UnreadableAnswer("the answer holds no list of deductions")
    ended = not items or any(each.get("has_more") is False for each in objects)
    cursor = next((found for each in objects if (found := as_text(each.get("next_cursor")))), "")
    return DeductionPage(_deductions(items), "" if ended else cursor)


def _objects(payload: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yield an answer and the objects in it, outermost first; what stands in lists is passed over."""
    row = [payload]
    for _ in range(_DEEPEST):
        yield from row
        row = [found for each in row for value in each.values() if (found := as_mapping(value)) is not None]


def _check_inner(payload: Mapping[str, Any], data: Mapping[str, object]) -> None:
    code = as_text(data.get("code"))
    if code not in _SUCCESS:
        message = as_text(data.get("msg")) or as_text(data.get("message"))
        refusal = {"code": code, "message": message, "request_id": request_id_of(payload)}
        raise UnreadableAnswer("the answer says no inside", refusal)


def _pack(pack: Mapping[str, object]) -> ResourcePack:
    return ResourcePack(
        id=as_text(pack.get("resource_pack_id")),
        name=as_text(pack.get("resource_pack_name")),
        type=as_text(pack.get("resource_pack_type")),
        status=as_text(pack.get("status")),
        total=as_decimal(pack.get("total_quantity")),
        remaining=as_decimal(pack.get("remaining_quantity")),
        purchased_at=as_moment(pack.get("purchase_time")),
        effective_at=as_moment(pack.get("effective_time")),
        expires_at=as_moment(pack.get("invalid_time")),
    )


def _deductions(items: Sequence[object]) -> tuple[Deduction, ...]:
    return tuple(_deduction(item) for item in map(as_mapping, items) if item is not None)


def _deduction(item: Mapping[str, object]) -> Deduction:
    return Deduction(
        task_id=as_text(item.get("task_id")),
        model_name=as_text(item.get("model_name")),
        resolution=as_text(item.get("resolution")),
        duration_seconds=as_decimal(item.get("duration")),
        sound=_flag(item.get("video_sound")),
        voice=_flag(item.get("voice_control")),
        time=as_moment(item.get("deduction_time")),
        amount=as_decimal(item.get("deduction_amount")),
        unit_before=as_decimal(item.get("unit_before_deduction")),
        unit_after=as_decimal(item.get("unit_after_deduction")),
    )


def _flag(value: object) -> bool | None:
    word = str(value).lower() if isinstance(value, bool) else as_text(value).strip().lower()
    return True if word in _ON else False if word in _OFF else None
