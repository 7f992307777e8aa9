"""What is neither final nor carried on when its run has ended has to be started again, by whoever comes first."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import structlog

from kling_flows.engine.engine import Engine
from kling_flows.engine.retries import REDISPATCH_SECONDS, redispatch_seconds
from kling_flows.errors import LedgerUnavailable

log = structlog.get_logger(__name__)

#: Seconds between two tries to give tasks back to a ledger that cannot be written.
_RETRY_SECONDS: Final = 1.0


async def give_back(engine: Engine, task_ids: Iterable[str], delay: float = REDISPATCH_SECONDS) -> None:
    """Free those of the tasks that the engine still holds, however long it takes until the ledger can be written.

    Args:
        engine: Under whose lease they were carried.
        task_ids: What the run has carried.
        delay: Seconds until they may be taken again; ``REDISPATCH_SECONDS`` means what each task's own state asks for.
    """
    ids = frozenset(task_ids)
    while ids:
        try:
            held = (await engine.ledger.held_by(engine.runner_id)).intersection(ids)
            for seconds, group in (await _delays(engine, held, delay)).items():
                await engine.ledger.release_after(group, engine.runner_id, seconds)
            return
        except LedgerUnavailable as error:
            log.warning("tasks cannot be given back yet", video_tasks=len(ids), error=error.message)
            await asyncio.sleep(_RETRY_SECONDS)


async def _delays(engine: Engine, task_ids: Iterable[str], delay: float) -> Mapping[float, Sequence[str]]:
    delays: defaultdict[float, list[str]] = defaultdict(list)
    for task_id in sorted(task_ids):
        seconds = delay
        if engine.draining.is_set():
            # Nothing has failed: whoever comes next goes on at once.
            seconds = 0.0
        elif delay == REDISPATCH_SECONDS:
            seconds = redispatch_seconds(await engine.ledger.get(task_id))
        delays[seconds].append(task_id)
    return delays
