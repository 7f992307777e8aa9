"""Compares what the provider has made on an account with what the ledger knows, and takes in what it does not.

It is for the days on which something went wrong that nothing else can repair: a ledger that was restored from a backup,
an outcome that stayed unknown, videos that were paid and forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from kling_flows.engine.cancel import keeps_video, sent
from kling_flows.engine.identity import LEDGER_TASK_ID, ledger_task_id, public_task_id
from kling_flows.engine.resolve import adopted, wanted_late
from kling_flows.errors import ConfigurationError, VideoTaskNotFound
from kling_flows.ledger import Ledger, State, UpstreamRecord, VideoTask
from kling_flows.upstream import Dialect, Provider, TextToVideoRequest, UpstreamClient, UpstreamStatus, UpstreamTask
from kling_flows.upstream.constants import MAX_PAGE, MAX_PAGE_SIZE

#: What a task that an audit has taken in is labelled with.
ADOPTED_LABEL: Final = "adopted"

#: Seconds for which a request and its answer may be on their way; younger tasks are left to whoever submits them.
_GRACE_SECONDS: Final = 120.0

#: A task may be accepted long after it was created here: it waited in the queue.
_QUEUED_DAYS: Final = 30

#: Pauses between pages, in seconds: nobody waits for an audit, and the account's limits are shared.
_PAGE_SECONDS: Final = 0.2

_OURS: Final = re.compile(r"kf-(?P<ledger>[0-9a-f]+)-(?P<task>.+)")


class Finding(StrEnum):
    """What is remarkable about an upstream task."""

    #: It bears this ledger's mark, and the ledger does not have that task.
    UNKNOWN = "UNKNOWN"
    #: Its task is in the ledger, but does not know of it.
    UNNOTICED = "UNNOTICED"
    #: Made and billed, not in the archive, and nobody carries it there.
    NOT_ARCHIVED = "NOT_ARCHIVED"
    #: As NOT_ARCHIVED, but its caller did not want it any more.
    DISCARDED = "DISCARDED"
    #: Another ledger's, or nobody's.
    FOREIGN = "FOREIGN"

    @property
    def amiss(self) -> bool:
        """Whether somebody has to do something about it."""
        return self in (Finding.UNKNOWN, Finding.UNNOTICED, Finding.NOT_ARCHIVED)


@dataclass(frozen=True, slots=True)
class AuditItem:
    """One remarkable upstream task.

    Args:
        finding: What is remarkable.
        upstream: As the provider shows it.
        video_task: Its task in the ledger; empty if there is none.
        adopted: Whether it is now carried to the archive.
    """

    finding: Finding
    upstream: UpstreamTask
    video_task: str = ""
    adopted: bool = False


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit has found.

    Args:
        looked_at: Upstream tasks in the period.
        items: Those that are remarkable, in the provider's order.
    """

    looked_at: int
    items: tuple[AuditItem, ...]

    @property
    def amiss(self) -> tuple[AuditItem, ...]:
        """Those that somebody still has to do something about."""
        return tuple(item for item in self.items if item.finding.amiss and not item.adopted)


async def audit(
    ledger: Ledger,
    client: UpstreamClient,
    *,
    since: datetime,
    tenant: str,
    adopt: bool = False,
    everything: bool = False,
) -> AuditReport:
    """Compare one account with the ledger. Auditing twice adopts nothing twice.

    Args:
        ledger: What is known.
        client: The account.
        since: Upstream tasks that were created before are passed over; with a time zone.
        tenant: Whose the tasks will be that the ledger did not have.
        adopt: Take in what is amiss: a runner then carries it to the archive.
        everything: With ``adopt``, take in what is FOREIGN or DISCARDED as well.

    Raises:
        ConfigurationError: the provider cannot list its tasks.
        UpstreamError: the provider cannot be asked now.
        LedgerUnavailable: the ledger cannot be used now.
    """
    known = await ledger.upstream_ids(client.account.name, since=since - timedelta(days=_QUEUED_DAYS))
    items: list[AuditItem] = []
    looked_at = 0
    async with aclosing(_listed(client, since)) as tasks:
        async for upstream in tasks:
            looked_at += 1
            item = await _judge(ledger, upstream, known)
            if item is None:
                continue
            if adopt and (item.finding.amiss or everything):
                item = await _adopt(ledger, client, item, tenant)
            items.append(item)
    return AuditReport(looked_at, tuple(items))


async def _listed(client: UpstreamClient, since: datetime) -> AsyncGenerator[UpstreamTask]:
    if client.account.provider is Provider.COMETAPI:
        raise ConfigurationError(
            "KLING_FLOWS_PROVIDER", "cometapi has no list of its tasks, so that there is nothing to compare with"
        )
    # While pages are read, new tasks push others onto the next page.
    seen: set[str] = set()
    pages = _pages_by_number(client, since) if client.account.dialect is Dialect.LEGACY else _pages(client, since)
    async with aclosing(pages):
        async for page in pages:
            for task in page:
                if task.task_id not in seen and not _older(task, since):
                    seen.add(task.task_id)
                    yield task
            await asyncio.sleep(_PAGE_SECONDS)


async def _pages_by_number(client: UpstreamClient, since: datetime) -> AsyncGenerator[tuple[UpstreamTask, ...]]:
    for number in range(1, MAX_PAGE + 1):
        page = await client.list_page(number, MAX_PAGE_SIZE)
        yield page
        # The order is not documented: one older task says nothing, a page of them does.
        if len(page) < MAX_PAGE_SIZE or all(_older(task, since) for task in page):
            return


async def _pages(client: UpstreamClient, since: datetime) -> AsyncGenerator[tuple[UpstreamTask, ...]]:
    cursor, end = "", datetime.now(UTC) + timedelta(minutes=1)
    while True:
        page = await client.list_tasks(start=since, end=end, cursor=cursor)
        yield page.tasks
        if not page.has_more or page.next_cursor == cursor:
            return
        cursor = page.next_cursor


def _older(task: UpstreamTask, since: datetime) -> bool:
    return task.created_at is not None and task.created_at < since


async def _judge(ledger: Ledger, upstream: UpstreamTask, known: dict[str, str]) -> AuditItem | None:
    """What is remarkable about it; None if nothing is."""
    paid = upstream.status is not UpstreamStatus.FAILED
    task_id = known.get(upstream.task_id) or _our_task_id(ledger, upstream)
    if task_id is None:
        return AuditItem(Finding.FOREIGN, upstream) if paid else None
    try:
        task = await ledger.get(task_id)
    except VideoTaskNotFound:
        return AuditItem(Finding.UNKNOWN, upstream) if paid else None
    if task.upstream is not None and task.upstream.task_id == upstream.task_id:
        if upstream.status is not UpstreamStatus.SUCCEEDED or task.active or task.state is State.SUCCEEDED:
            return None
        if task.artifacts:
            return None
        discarded = task.state in (State.CANCELLED, State.EXPIRED) and not keeps_video(task)
        return AuditItem(Finding.DISCARDED if discarded else Finding.NOT_ARCHIVED, upstream, task.id)
    if task.upstream is not None and task.upstream.task_id:
        # A second one with the same mark: its task has a video of its own.
        return AuditItem(Finding.FOREIGN, upstream, task.id) if paid else None
    if task.active and (task.state is not State.SUBMITTING or _may_be_on_its_way(upstream)):
        return None
    if not paid and not sent(task.upstream):
        return None
    return AuditItem(Finding.UNNOTICED, upstream, task.id)


def _may_be_on_its_way(upstream: UpstreamTask) -> bool:
    return upstream.created_at is None or (datetime.now(UTC) - upstream.created_at).total_seconds() < _GRACE_SECONDS


def _our_task_id(ledger: Ledger, upstream: UpstreamTask) -> str | None:
    """Which of this ledger's tasks it says that it is; None if it is none of ours."""
    mark = _OURS.fullmatch(upstream.external_task_id or "")
    if mark is None or mark["ledger"] != ledger.ledger_id or not LEDGER_TASK_ID.fullmatch(mark["task"]):
        return None
    return mark["task"]


async def _adopt(ledger: Ledger, client: UpstreamClient, item: AuditItem, tenant: str) -> AuditItem:
    upstream = item.upstream
    if item.finding in (Finding.UNKNOWN, Finding.FOREIGN):
        own = _our_task_id(ledger, upstream) if item.finding is Finding.UNKNOWN else None
        if own is not None and own != ledger_task_id(tenant, public_task_id(own)):
            # Another tenant has chosen it: this one could not name the task by it.
            own = None
        task = _new_task(client, upstream, tenant, own or _id_of(client, upstream))
        if item.video_task:
            # The mark is taken: it is another task's.
            task = task.model_copy(
                update={"upstream": _record(client, task.id, replace(upstream, external_task_id=None))}
            )
        inserted = await ledger.adopt(task)
        return replace(item, video_task=task.id if inserted else item.video_task, adopted=inserted)

    def change(before: VideoTask) -> VideoTask:
        return _told(before, client, upstream)

    # Not fenced: a fact about money is true whoever holds the task.
    before = await ledger.get(item.video_task)
    after = await ledger.advance(item.video_task, change)
    return replace(item, adopted=after.revision > before.revision)


def _told(before: VideoTask, client: UpstreamClient, upstream: UpstreamTask) -> VideoTask:
    """The task after it was told of its upstream task; unchanged if it has moved on by itself meanwhile."""
    if before.active and before.state is not State.SUBMITTING:
        return before
    if before.artifacts or before.state is State.SUCCEEDED:
        return before
    record = before.upstream or _record(client, before.id, upstream)
    if before.state is State.SUBMITTING:
        if record.task_id:
            return before
        facts = _record(client, before.id, upstream).model_dump(include={"task_id", "request_id", "status"})
        known = record.model_copy(
            update={**facts, "submit_time": upstream.created_at or datetime.now(UTC), "outcome_unknown": False}
        )
        return before.model_copy(update={"state": State.SUBMITTED, "upstream": known, "error": None})
    if before.state is State.UNRESOLVED:
        return adopted(before, upstream.task_id)
    if upstream.status is UpstreamStatus.FAILED:
        # Known now, and nothing to follow.
        known = record.model_copy(
            update={
                "task_id": upstream.task_id,
                "status": upstream.status_word,
                "status_message": upstream.status_message,
                "end_time": upstream.updated_at or datetime.now(UTC),
                "outcome_unknown": False,
            }
        )
        return before.model_copy(update={"upstream": known})
    with_record = before.model_copy(update={"upstream": record})
    return wanted_late(with_record, upstream.task_id, "an audit has found it at the provider")


def _new_task(client: UpstreamClient, upstream: UpstreamTask, tenant: str, task_id: str) -> VideoTask:
    now = datetime.now(UTC)
    return VideoTask(
        id=task_id,
        tenant=tenant,
        state=State.SUBMITTED,
        revision=1,
        # What was asked for is not told.
        request=TextToVideoRequest(prompt=""),
        labels={ADOPTED_LABEL: "true"},
        create_time=upstream.created_at or now,
        update_time=now,
        upstream=_record(client, task_id, upstream),
        typical_seconds=0.0,
        account=client.account.name,
    )


def _id_of(client: UpstreamClient, upstream: UpstreamTask) -> str:
    """Always the same for the same upstream task, so that it is not taken in twice."""
    digest = hashlib.sha256(f"{client.account.name}\0{upstream.task_id}".encode()).hexdigest()
    return f"vt-adopted-{digest[:26]}"


def _record(client: UpstreamClient, task_id: str, upstream: UpstreamTask) -> UpstreamRecord:
    account = client.account
    started = upstream.created_at or datetime.now(UTC)
    return UpstreamRecord(
        provider=account.provider,
        dialect=account.dialect,
        base_url=account.base_url,
        account=account.name,
        # Unique in the ledger, also where the provider's task has none.
        external_task_id=upstream.external_task_id or f"adopted/{task_id}",
        task_id=upstream.task_id,
        request_id=upstream.request_id,
        status=upstream.status_word,
        intent_time=started,
        submit_time=started,
    )
