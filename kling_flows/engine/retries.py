"""How a step is repeated: one policy, obeyed by Prefect's task runs and by batches alike."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, TypeVar

from kling_flows.errors import ArchiveError, KlingFlowsError, LedgerUnavailable
from kling_flows.ledger import State, VideoTask
from kling_flows.upstream import UpstreamError
from kling_flows.upstream.errors import UpstreamAmbiguous

T = TypeVar("T")

#: Seconds before each repetition; after the last one the run fails and the runner takes the task up again later.
RETRY_DELAYS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)

#: Each delay is lengthened by up to this share of itself.
RETRY_JITTER: Final = 0.5

#: Seconds until a task whose run has failed is taken up again.
REDISPATCH_SECONDS: Final = 60.0

#: The same for one that has not met the provider yet: what failed was Prefect or the ledger, which may be back by then.
UNTRIED_SECONDS: Final = 5.0

#: A video that cannot be archived is tried for weeks: the longer it waits already, the rarer, up to so many seconds.
_LONGEST_REDISPATCH: Final = 3600.0
_SHARE_OF_AGE: Final = 0.1


def worth_repeating(error: BaseException) -> bool:
    """Whether the same step may succeed later without anybody changing anything."""
    if isinstance(error, UpstreamError):
        return error.retryable or isinstance(error, UpstreamAmbiguous)
    return isinstance(error, ArchiveError | LedgerUnavailable)


def redispatch_seconds(task: VideoTask) -> float:
    """Seconds until a task whose run has failed is taken up again."""
    if task.state is State.QUEUED:
        return UNTRIED_SECONDS
    if task.upstream is None or task.upstream.end_time is None:
        return REDISPATCH_SECONDS
    age = (datetime.now(UTC) - task.upstream.end_time).total_seconds()
    return min(max(age * _SHARE_OF_AGE, REDISPATCH_SECONDS), _LONGEST_REDISPATCH)


async def with_retries(step: Callable[[], Awaitable[T]]) -> T:
    """Run a step under the policy."""
    for delay in RETRY_DELAYS:
        try:
            return await step()
        except KlingFlowsError as error:
            if not worth_repeating(error):
                raise
        await asyncio.sleep(delay * (1 + RETRY_JITTER * random.random()))
    return await step()
