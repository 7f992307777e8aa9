"""A video task's own deadline: when nobody wants it any more. The deadline of an RPC ends that call only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import structlog

from kling_flows.engine.cancel import sent
from kling_flows.engine.failures import error_record
from kling_flows.errors import LedgerUnavailable, VideoTaskExpired
from kling_flows.ledger import LateVideo, Ledger, State, UpstreamRecord, VideoTask

log = structlog.get_logger(__name__)

#: Seconds between two looks for tasks whose deadline has passed.
LOOK_SECONDS: Final = 1.0

#: Most tasks that end in one transaction.
_LIMIT: Final = 500


def expired(before: VideoTask) -> VideoTask:
    """The task after its deadline; unchanged if it is final."""
    if before.state.final:
        return before
    was_sent = sent(before.upstream)
    keep = before.on_deadline is LateVideo.KEEP_VIDEO
    error = VideoTaskExpired(
        f"its deadline passed while it was {before.state}: {_consequence(before.upstream, keep=keep)}",
        metadata={"sent": str(was_sent).lower(), "late_video": before.on_deadline.value},
    )
    return before.model_copy(
        update={"state": State.EXPIRED, "error": error_record(error), "video_pending": was_sent and keep}
    )


def _consequence(upstream: UpstreamRecord | None, *, keep: bool) -> str:
    if upstream is None:
        return "nothing was sent to the provider and nothing is spent"
    if not sent(upstream):
        return "the provider has refused it until now, so that nothing is spent"
    if upstream.end_time is not None:
        fact = "the provider has made the video already and bills it"
    elif upstream.task_id:
        fact = "the provider has accepted it, has no cancel, and will still bill it"
    else:
        fact = "it is unknown whether the provider has accepted it; if it has, it will still bill it"
    return f"{fact}; the video will be archived" if keep else f"{fact}; nobody looks at it any more"


@asynccontextmanager
async def watched_deadlines(ledger: Ledger) -> AsyncGenerator[None]:
    """Tasks of the ledger expire while this context is open, whoever holds them."""
    looking = asyncio.create_task(_look_forever(ledger), name="deadlines")
    try:
        yield
    finally:
        looking.cancel()
        await asyncio.wait({looking})


async def _look_forever(ledger: Ledger) -> None:
    while True:
        try:
            await expire_due(ledger)
        except LedgerUnavailable as error:
            log.warning("deadlines cannot be looked at", error=error.message)
        except Exception:
            # Without this loop no deadline would end anything any more.
            log.exception("deadlines cannot be looked at")
        await asyncio.sleep(LOOK_SECONDS)


async def expire_due(ledger: Ledger) -> int:
    """End all tasks whose deadline has passed; returns how many.

    Raises:
        LedgerUnavailable: nothing, or not all of them, could be ended.
    """
    # Mostly there is nothing to do, and a look does not get into the way of those who write.
    first = await ledger.first_deadline()
    if first is None or first > time.time():
        return 0
    count = 0
    while True:
        ended = len(await ledger.expire_due(expired, time.time(), _LIMIT))
        count += ended
        if ended < _LIMIT:
            log.info("deadlines have passed", video_tasks=count)
            return count
