"""What video tasks reserve and spend, and the budgets that limit it.

The table ``spending`` is the sum of :func:`charge` over all tasks. Every transaction that changes a task books the
difference that it makes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cache, lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, bindparam, func, literal, select, union_all

from kling_flows.errors import BudgetExceeded
from kling_flows.ledger.dialects import insert_into
from kling_flows.ledger.records import State, UpstreamRecord, VideoTask
from kling_flows.ledger.schema import spending
from kling_flows.settings import Budget
from kling_flows.upstream.constants import STANDARD_SUCCEEDED, StatusWord
from kling_flows.upstream.wording import plain

#: States that only a video that the provider has made leads to.
_MADE: Final = frozenset({State.ARCHIVING, State.SUCCEEDED, State.LOST})

#: The provider's words for a video that it has made, and bills.
_MADE_WORDS: Final = frozenset({StatusWord.SUCCEED.value, STANDARD_SUCCEEDED})

#: A figure beyond this is no figure: the table could not hold it.
_MOST_UNITS: Final = Decimal(10**9)

_MILLI: Final = 1_000
_MICRO: Final = 1_000_000

_ALL: Final = "*"


class Charge(NamedTuple):
    """What a task has set aside and what it has cost, in thousandths of video units and millionths of US dollars."""

    reserved_milliunits: int = 0
    reserved_microusd: int = 0
    settled_milliunits: int = 0
    settled_microusd: int = 0

    def plus(self, other: Charge) -> Charge:
        """The sum of two charges."""
        return Charge(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def less(self, other: Charge) -> Charge:
        """The difference between two charges."""
        return Charge(*(mine - theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget, and what of it is reserved and settled now, in video units and US dollars."""

    budget: Budget
    reserved_units: Decimal
    reserved_usd: Decimal
    settled_units: Decimal
    settled_usd: Decimal


def charge(task: VideoTask) -> Charge:
    """What the task reserves or has cost, as far as its record tells.

    A video that was made costs the provider's own figure, or the quote if it gives none; one that the provider has
    failed costs nothing (fact sheet 8.1), nor does what was never sent. All else may still cost the quote, unknown
    outcomes included: it stays reserved until the provider's end of it is known.
    """
    upstream = task.upstream
    ended = upstream is not None and upstream.end_time is not None
    if task.state in _MADE or (ended and upstream is not None and upstream.status in _MADE_WORDS):
        return _settled(task, _figure(upstream))
    if ended:
        # It says that it has failed; should it say that it has deducted all the same, that is what it has cost.
        return _settled(task, _figure(upstream) or Decimal(0))
    if task.state.final and not was_sent(task):
        return Charge()
    return Charge() if task.quote is None else _reserved(task.quote.units, task.quote.usd)


@lru_cache
def _reserved(units: str, usd: str) -> Charge:
    return Charge(reserved_milliunits=_whole(Decimal(units), _MILLI), reserved_microusd=_whole(Decimal(usd), _MICRO))


def was_sent(task: VideoTask) -> bool:
    """Whether the provider has the task, or may have it."""
    return task.upstream is not None and bool(task.upstream.task_id or task.upstream.outcome_unknown)


def paid_by(task: VideoTask) -> str:
    """Which account pays: the one that it was submitted with, else the one that it was taken in for; may be empty."""
    return task.upstream.account if task.upstream is not None else task.account


def book(conn: Connection, before: VideoTask | None, after: VideoTask) -> None:
    """Add to the table what a change of a task makes of difference; ``before`` is None when the task is new."""
    place, now = _place(after), charge(after)
    if before is not None:
        earlier_place, earlier = _place(before), charge(before)
        if earlier_place == place:
            now = now.less(earlier)
        elif any(earlier):
            # Only now is it known which account pays.
            _add(conn, earlier_place, Charge().less(earlier))
    if any(now):
        _add(conn, place, now)


def book_new(conn: Connection, tasks: Iterable[VideoTask]) -> None:
    """Add what new tasks reserve, each sum once."""
    sums: defaultdict[tuple[str, str, str], Charge] = defaultdict(Charge)
    for (place, amounts), count in Counter((_place(task), charge(task)) for task in tasks).items():
        sums[place] = sums[place].plus(Charge(*(count * amount for amount in amounts)))
    for place, amounts in sums.items():
        if any(amounts):
            _add(conn, place, amounts)


def refusal(conn: Connection, task: VideoTask, budgets: Iterable[Budget]) -> BudgetExceeded | None:
    """The refusal of the first budget that does not cover one more task like this; None if all do."""
    covering = [budget for budget in budgets if _covers(budget, task)]
    if not covering:
        return None
    if task.quote is None:
        return BudgetExceeded(
            f"the budget {covering[0].name} limits what may be spent, and no price of such a video of "
            f"{task.request.model_name} is published; nothing was sent. Choose a model and mode that have a price",
            subject=covering[0].name,
        )
    units, usd = _quoted(task)
    day = task.create_time.astimezone(UTC).date()
    for budget, used in zip(covering, _used(conn, covering, day), strict=True):
        for word, limit, spent, cost in (
            ("units", budget.units, Decimal(used.reserved_milliunits + used.settled_milliunits) / _MILLI, units),
            ("usd", budget.usd, Decimal(used.reserved_microusd + used.settled_microusd) / _MICRO, usd),
        ):
            if limit is not None and spent + cost > limit:
                return _exceeded(budget, word, limit, limit - spent, cost)
    return None


def read_budgets(conn: Connection, budgets: Iterable[Budget], tenant: str | None = None) -> list[BudgetUse]:
    """What of each budget that concerns a tenant is used now, in their order; of all budgets without one."""
    concerned = [budget for budget in budgets if tenant is None or budget.tenant in (_ALL, tenant)]
    return [
        BudgetUse(
            budget,
            reserved_units=Decimal(used.reserved_milliunits) / _MILLI,
            reserved_usd=Decimal(used.reserved_microusd) / _MICRO,
            settled_units=Decimal(used.settled_milliunits) / _MILLI,
            settled_usd=Decimal(used.settled_microusd) / _MICRO,
        )
        for budget, used in zip(concerned, _used(conn, concerned, datetime.now(UTC).date()), strict=True)
    ]


def _settled(task: VideoTask, figure: Decimal | None) -> Charge:
    units, usd = _quoted(task)
    if figure is not None:
        # The provider bills units; what one is worth is what it was worth when the task was quoted.
        usd = figure * usd / units if units else usd
        units = figure
    return Charge(settled_milliunits=_whole(units, _MILLI), settled_microusd=_whole(usd, _MICRO))


def _quoted(task: VideoTask) -> tuple[Decimal, Decimal]:
    return (Decimal(task.quote.units), Decimal(task.quote.usd)) if task.quote is not None else (Decimal(0), Decimal(0))


def _figure(upstream: UpstreamRecord | None) -> Decimal | None:
    if upstream is None or not upstream.settled_units:
        return None
    try:
        figure = Decimal(upstream.settled_units)
    except InvalidOperation:
        return None
    return figure if figure.is_finite() and 0 <= figure <= _MOST_UNITS else None


def _whole(amount: Decimal, parts: int) -> int:
    return int((amount * parts).to_integral_value(ROUND_HALF_UP))


def _place(task: VideoTask) -> tuple[str, str, str]:
    return task.tenant, paid_by(task), task.create_time.astimezone(UTC).date().isoformat()


def _add(conn: Connection, place: tuple[str, str, str], amounts: Charge) -> None:
    tenant, account, day = place
    conn.execute(_upsert(conn.dialect.name), {"tenant": tenant, "account": account, "day": day, **amounts._asdict()})


@cache
def _upsert(dialect: str) -> Any:
    into = insert_into(dialect, spending)
    return into.on_conflict_do_update(
        index_elements=[spending.c.tenant, spending.c.account, spending.c.day],
        set_={name: spending.c[name] + into.excluded[name] for name in Charge._fields},
    )


def _covers(budget: Budget, task: VideoTask) -> bool:
    if budget.units is None and budget.usd is None:
        return False
    # While nobody knows which account will pay, it may be any.
    return budget.tenant in (_ALL, task.tenant) and (not task.account or budget.account in (_ALL, task.account))


def _used(conn: Connection, budgets: Sequence[Budget], day: date) -> list[Charge]:
    """What is booked on each budget in the period that the day is in."""
    if not budgets:
        return []
    values: dict[str, str] = {}
    for number, budget in enumerate(budgets):
        values[f"tenant{number}"] = budget.tenant
        values[f"account{number}"] = budget.account
        values[f"day{number}"] = _first_day(budget, day).isoformat()
    rows = conn.execute(_sums(tuple(map(_Scope.of, budgets))), values)
    found = {number: Charge(*map(int, sums)) for number, *sums in rows}
    return [found[number] for number in range(len(budgets))]


class _Scope(NamedTuple):
    """Which columns a budget looks at."""

    tenant: bool
    account: bool
    day: bool

    @classmethod
    def of(cls, budget: Budget) -> _Scope:
        return cls(budget.tenant != _ALL, budget.account != _ALL, budget.period != "total")


@lru_cache
def _sums(scopes: tuple[_Scope, ...]) -> Any:
    """One statement for all budgets: each statement costs a create more than what it finds."""
    return union_all(*(_sum(number, scope) for number, scope in enumerate(scopes)))


def _sum(number: int, scope: _Scope) -> Any:
    query = select(literal(number), *(func.coalesce(func.sum(spending.c[name]), 0) for name in Charge._fields))
    if scope.tenant:
        query = query.where(spending.c.tenant == bindparam(f"tenant{number}"))
    if scope.account:
        # What no account is known of yet counts for each.
        query = query.where(spending.c.account.in_([bindparam(f"account{number}"), ""]))
    if scope.day:
        query = query.where(spending.c.day >= bindparam(f"day{number}"))
    return query


def _first_day(budget: Budget, day: date) -> date:
    return day.replace(day=1) if budget.period == "month" else day


_WAIT: Final = {"total": "", "month": "wait for the next month (UTC), ", "day": "wait for the next day (UTC), "}


def _exceeded(budget: Budget, word: str, limit: Decimal, left: Decimal, cost: Decimal) -> BudgetExceeded:
    amounts = {"limit": plain(limit), "left": plain(max(left, Decimal(0))), "cost": plain(cost), "unit": word}
    shown = {"units": "units", "usd": "US dollars"}[word]
    return BudgetExceeded(
        f"the budget {budget.name} has {amounts['left']} of {amounts['limit']} {shown} left, and this video would take "
        f"{amounts['cost']}; nothing was sent. Ask for a shorter or cheaper video, {_WAIT[budget.period]}or have the "
        "limit raised under [[budgets]] in the settings",
        subject=budget.name,
        metadata=amounts,
    )
