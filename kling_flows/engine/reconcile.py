"""Compares what the provider has billed with what the ledger thinks that its tasks have cost."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from kling_flows.errors import VideoTaskNotFound
from kling_flows.ledger import Ledger, VideoTask
from kling_flows.upstream import DeductionKind, UpstreamClient

#: A task may be billed long after it was created here: it waited in the queue.
_QUEUED_DAYS = 30


class Difference(StrEnum):
    """How a bill and the ledger disagree."""

    #: The ledger has no task of that upstream id; `kling-flows audit` may find it.
    UNKNOWN = "UNKNOWN"
    #: The task had not noted any cost.
    NOT_NOTED = "NOT_NOTED"
    #: The task noted another figure of the provider's own.
    SETTLED_OTHERWISE = "SETTLED_OTHERWISE"
    #: It was billed as noted, yet our price list had expected another figure.
    QUOTED_OTHERWISE = "QUOTED_OTHERWISE"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One bill that is not what the ledger says; amounts are video units.

    Args:
        difference: How they disagree.
        upstream_task_id: The provider's id.
        billed: What was deducted.
        video_task: Our task's id; empty if there is none.
        settled: What the task noted; None if nothing.
        quoted: What the task was expected to cost; None if that is not known.
    """

    difference: Difference
    upstream_task_id: str
    billed: Decimal
    video_task: str = ""
    settled: Decimal | None = None
    quoted: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What was compared.

    Args:
        tasks: How many upstream tasks were billed.
        billed: All of it, in video units.
        disagreements: Those that are not what the ledger says.
    """

    tasks: int
    billed: Decimal
    disagreements: tuple[Disagreement, ...]


async def reconcile(ledger: Ledger, client: UpstreamClient, *, since: datetime) -> Reconciliation:
    """Compare the bills of one account's packs with the ledger.

    Args:
        ledger: What is known.
        client: The account.
        since: Bills before it are passed over; with a time zone.

    Raises:
        ConfigurationError: the provider has no such books.
        UpstreamError: the provider cannot be asked, or refuses this kind of key.
        LedgerUnavailable: the ledger cannot be used now.
    """
    known = await ledger.upstream_ids(client.account.name, since=since - timedelta(days=_QUEUED_DAYS))
    billed: dict[str, Decimal] = {}
    end = datetime.now(UTC) + timedelta(minutes=1)
    async with aclosing(client.deductions(DeductionKind.PACKAGE, since, end)) as deductions:
        async for deduction in deductions:
            if deduction.amount is not None:
                billed[deduction.task_id] = billed.get(deduction.task_id, Decimal(0)) + deduction.amount
    found = [await _compare(ledger, task_id, amount, known.get(task_id)) for task_id, amount in billed.items()]
    return Reconciliation(
        tasks=len(billed),
        billed=sum(billed.values(), Decimal(0)),
        disagreements=tuple(disagreement for disagreement in found if disagreement is not None),
    )


async def _compare(ledger: Ledger, upstream_id: str, billed: Decimal, task_id: str | None) -> Disagreement | None:
    if task_id is None:
        return Disagreement(Difference.UNKNOWN, upstream_id, billed)
    try:
        task = await ledger.get(task_id)
    except VideoTaskNotFound:
        return Disagreement(Difference.UNKNOWN, upstream_id, billed)
    difference = _difference(task, billed)
    if difference is None:
        return None
    return Disagreement(difference, upstream_id, billed, task.id, _settled(task), _quoted(task))


def _difference(task: VideoTask, billed: Decimal) -> Difference | None:
    settled, quoted = _settled(task), _quoted(task)
    if settled is None:
        return Difference.NOT_NOTED
    if settled != billed:
        return Difference.SETTLED_OTHERWISE
    return Difference.QUOTED_OTHERWISE if quoted is not None and quoted != billed else None


def _settled(task: VideoTask) -> Decimal | None:
    return None if task.upstream is None else _number(task.upstream.settled_units)


def _quoted(task: VideoTask) -> Decimal | None:
    return None if task.quote is None else _number(task.quote.units)


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None
