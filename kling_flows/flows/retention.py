"""Keeps what is to be kept: fetches again what the archive has lost, and deletes what nobody wants any longer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from prefect import flow
from prefect.states import Completed, Failed
from pydantic import Field

from kling_flows.engine.engine import Engine
from kling_flows.engine.identity import public_task_id
from kling_flows.engine.restore import fetch_again, is_missing, prune
from kling_flows.errors import KlingFlowsError
from kling_flows.flows.form import ArchiveName, CredentialsName, named_session
from kling_flows.flows.text_to_video import RESULT_STORAGE
from kling_flows.ledger import State, TimeBound, VideoTask, place_of
from kling_flows.shown.artifacts import show_table
from kling_flows.steps import carry_to_end

#: Tasks that are looked at in one go.
_PAGE: Final = 200

#: Files of the archive that are looked at or fetched at a time.
_AT_ONCE: Final = 8

#: A task with this label, whatever its value, is never pruned.
KEEP_LABEL: Final = "keep"

_WITH_VIDEO: Final = (State.SUCCEEDED, State.CANCELLED, State.EXPIRED)


class _Done(StrEnum):
    FETCHED = "fetched again"
    CHANGED = "fetched again, with another checksum"
    ARCHIVED = "archived in time"
    PRUNED = "pruned"
    WOULD_PRUNE = "would be pruned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class _Policy:
    urgent: datetime
    pruned: datetime | None
    dry_run: bool


@flow(
    name="retention",
    flow_run_name="retention",
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Fetches videos again that the archive has lost, before the provider deletes them; prunes old ones.",
)
async def retention(
    before_days: Annotated[
        int,
        Field(
            title="Days before deletion",
            description="A video that is not archived yet is fetched now if the provider deletes it within so many "
            "days.",
            ge=0,
            le=30,
        ),
    ] = 7,
    prune_after_days: Annotated[
        int | None,
        Field(
            title="Prune after days",
            description="Delete videos from the archive that ended longer ago, except those with the label keep. Left "
            "out: nothing is deleted.",
            ge=1,
            le=3_650,
        ),
    ] = None,
    dry_run: Annotated[
        bool, Field(title="Dry run", description="Only show what would be pruned; fetching goes on.")
    ] = False,
    credentials_block: CredentialsName = None,
    archive_block: ArchiveName = None,
) -> dict[str, int]:
    """Fetch again what the archive has lost while the provider still has it, and prune by policy.

    Args:
        before_days: How long before its deletion a video that is not archived is fetched at once.
        prune_after_days: After how many days a video is deleted from the archive; never, if it is left out.
        dry_run: Whether pruning only says what it would do.
        credentials_block: Whose accounts; by default the one that ``KLING_FLOWS_*`` names.
        archive_block: Which archive; by default the one that ``KLING_FLOWS_ARCHIVE`` names.

    Returns:
        How many videos what was done to.
    """
    now = datetime.now(UTC)
    async with named_session(credentials_block, archive_block) as engine:
        kept = timedelta(seconds=engine.retention)
        policy = _Policy(
            urgent=now - kept + timedelta(days=before_days),
            pruned=None if prune_after_days is None else now - timedelta(days=prune_after_days),
            dry_run=dry_run,
        )
        rows = [*await _rescue(engine, policy), *await _restore(engine, policy, now - kept)]
        if policy.pruned is not None:
            rows += await _prune(engine, policy, policy.pruned)
        await show_table(engine.settings, rows, "retention", "What was done to videos")
    return _outcome(rows)


async def _rescue(engine: Engine, policy: _Policy) -> list[dict[str, Any]]:
    """What waits for its archive, perhaps for an hour until its next attempt, while the provider is about to delete."""

    async def work(task: VideoTask) -> dict[str, Any] | None:
        ended = task.upstream.end_time if task.upstream is not None else None
        if ended is None or ended > policy.urgent:
            return None
        task = await carry_to_end(engine, task.id)
        return _row(task, _Done.ARCHIVED if task.artifacts else _Done.FAILED)

    return await _for_each(engine, (State.ARCHIVING,), (), work)


async def _restore(engine: Engine, policy: _Policy, deleted: datetime) -> list[dict[str, Any]]:
    """What is not in the archive and ought to be, as long as the provider has it."""
    since = max(deleted, policy.pruned) if policy.pruned is not None else deleted

    async def work(task: VideoTask) -> dict[str, Any] | None:
        row: dict[str, Any] | None = None
        for artifact in task.artifacts:
            if await is_missing(engine, task, artifact):
                stored = await fetch_again(engine, task, artifact)
                row = _row(task, _Done.FETCHED if stored.sha256 == artifact.sha256 else _Done.CHANGED)
        return row

    return await _for_each(engine, _WITH_VIDEO, (TimeBound("end_time", ">", since.timestamp()),), work)


async def _prune(engine: Engine, policy: _Policy, before: datetime) -> list[dict[str, Any]]:
    async def work(task: VideoTask) -> dict[str, Any] | None:
        if not task.artifacts or task.active or KEEP_LABEL in task.labels:
            return None
        if policy.dry_run:
            return _row(task, _Done.WOULD_PRUNE)
        await prune(engine, task)
        return _row(task, _Done.PRUNED)

    return await _for_each(engine, _WITH_VIDEO, (TimeBound("end_time", "<=", before.timestamp()),), work)


async def _for_each(
    engine: Engine,
    states: tuple[State, ...],
    times: tuple[TimeBound, ...],
    work: Callable[[VideoTask], Awaitable[dict[str, Any] | None]],
) -> list[dict[str, Any]]:
    """Do the work for each such task of this tenant, some at a time; one that fails does not stop the others."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def guarded(task: VideoTask) -> dict[str, Any] | None:
        async with places:
            try:
                return await work(task)
            except KlingFlowsError as error:
                return _row(task, _Done.FAILED, error.message)

    rows: list[dict[str, Any]] = []
    async with aclosing(_pages(engine, states, times)) as pages:
        async for page in pages:
            rows += [row for row in await asyncio.gather(*map(guarded, page)) if row is not None]
    return rows


async def _pages(
    engine: Engine, states: tuple[State, ...], times: tuple[TimeBound, ...]
) -> AsyncGenerator[list[VideoTask]]:
    beyond = None
    while True:
        page = await engine.ledger.list_tasks(
            tenant=engine.settings.tenant, states=states, times=times, oldest_first=True, beyond=beyond, limit=_PAGE
        )
        yield [task for _, task in page]
        if len(page) < _PAGE:
            return
        beyond = place_of(*page[-1])


def _row(task: VideoTask, done: _Done, error: str = "") -> dict[str, Any]:
    return {
        "video task": public_task_id(task.id),
        "done": done.value,
        "video": task.artifacts[0].uri if task.artifacts else "",
        "error": error,
    }


def _outcome(rows: list[dict[str, Any]]) -> Any:
    counts = Counter(str(row["done"]) for row in rows)
    words = ", ".join(f"{count} {done}" for done, count in sorted(counts.items())) or "nothing to do"
    if counts[_Done.FAILED.value]:
        return Failed(message=f"{words}; the run's table says why")
    return Completed(message=words, data=dict(counts))
