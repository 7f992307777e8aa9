"""Each state change of a video task as a Prefect event, so that automations can act on it.

They are a courtesy: they are read from the ledger's log, which stays the truth, and told at most once, whichever of the
processes on the ledger is first. Nothing of ours waits for one or reads one back.

An event costs some 6 ms of CPU, most of it in Prefect's server: a burst of 1,000 videos took 67 ms each with all of
them and 25 ms with none. So the ends of tasks are always told, and the states before only while it is calm.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from prefect.events import emit_event

from kling_flows.engine.identity import public_task_id
from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import Event, Ledger, State, VideoTask
from kling_flows.shown.words import short_prompt

log = structlog.get_logger(__name__)

#: What the names of the events and the ids of their resources begin with.
PREFIX: Final = "kling-flows.video-task"

#: Where the ledger notes up to which position Prefect was told.
_META: Final = "prefect_events"

#: Most events that are told between two notes.
_BATCH: Final = 200

#: Longest time between two looks, in seconds, and how long what was written is gathered.
_LOOK_SECONDS: Final = 5.0
_GATHER_SECONDS: Final = 0.1

#: States before the end that are told a second on average, and at once after a rest.
_CALM_RATE: Final = 5.0
_CALM_BURST: Final = 50.0

#: Tasks whose last state is remembered; of others the ledger is asked.
_REMEMBERED: Final = 10_000


def event_name(state: State) -> str:
    """The name of the event that says that a task is in this state now."""
    return f"{PREFIX}.{state.value.lower()}"


def resource_of(task: VideoTask) -> dict[str, str]:
    """The task as the resource of a Prefect event."""
    return {
        "prefect.resource.id": f"{PREFIX}.{task.id}",
        "prefect.resource.name": public_task_id(task.id),
        "kling-flows.tenant": task.tenant,
        "kling-flows.model": task.request.model_name,
        "kling-flows.mode": task.request.mode.value,
    }


def payload_of(task: VideoTask) -> dict[str, Any]:
    """What an automation may want to know; no secret, and no address that expires."""
    upstream, video = task.upstream, task.artifacts[0] if task.artifacts else None
    return {
        "video_task": public_task_id(task.id),
        "tenant": task.tenant,
        "state": task.state.value,
        "revision": task.revision,
        "model_name": task.request.model_name,
        "mode": task.request.mode.value,
        "duration": task.request.duration,
        "prompt": short_prompt(task),
        "labels": task.labels,
        "upstream_task_id": upstream.task_id if upstream else "",
        "quoted_units": task.quote.units if task.quote else "",
        "quoted_usd": task.quote.usd if task.quote else "",
        "settled_units": upstream.settled_units if upstream else "",
        "video": video.uri if video else "",
        "sha256": video.sha256 if video else "",
        "size_bytes": video.size_bytes if video else 0,
        "reason": task.error.reason if task.error else "",
        "error": task.error.message if task.error else "",
    }


@asynccontextmanager
async def told_events(ledger: Ledger, may_tell: Callable[[], bool] = lambda: True) -> AsyncGenerator[None]:
    """Tell Prefect of the ledger's state changes until the context ends, and then of the last ones.

    Args:
        ledger: Whose.
        may_tell: Asked before each look; while it says no, what happens is told later.
    """
    teller = _Teller(ledger)
    await teller.begin()
    telling = asyncio.create_task(teller.run(may_tell), name="prefect-events")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait({telling})
        if may_tell():
            await teller.tell()


class _Teller:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._states: OrderedDict[str, State] = OrderedDict()
        self._allowance = _CALM_BURST
        self._allowed_at = time.monotonic()

    async def begin(self) -> None:
        """A ledger from before there were events: what has happened there is no news."""
        try:
            if _META not in await self._ledger.read_meta():
                await self._ledger.move_meta(_META, None, str(await self._ledger.head()))
        except LedgerUnavailable as error:
            log.info("Prefect cannot be told of events yet", error=error.message)

    async def run(self, may_tell: Callable[[], bool]) -> None:
        while True:
            changes = self._ledger.changes()
            if may_tell():
                await self.tell()
            await changes.wait(_LOOK_SECONDS)
            await asyncio.sleep(_GATHER_SECONDS)

    async def tell(self) -> None:
        try:
            while await self._tell_batch():
                pass
        except LedgerUnavailable as error:
            log.info("Prefect is told later", error=error.message)
        except Exception:
            # Without this loop no automation would hear of anything any more.
            log.exception("Prefect cannot be told of state changes")

    async def _tell_batch(self) -> bool:
        """Tell of the next events; says whether there may be more."""
        known = (await self._ledger.read_meta()).get(_META)
        if known is None:
            await self.begin()
            return False
        events = await self._ledger.read_events(int(known), _BATCH)
        if not events:
            return False
        news = [event for event in events if await self._is_news(event)]
        # Noted first: an automation that runs twice may cost money, one that does not run is made up for by hand.
        if await self._ledger.move_meta(_META, known, str(events[-1].position)):
            for event in news:
                if event.task.state.final or self._is_calm():
                    _emit(self._ledger.ledger_id, event)
        return len(events) == _BATCH

    def _is_calm(self) -> bool:
        """Whether one more state before the end may be told."""
        now = time.monotonic()
        self._allowance = min(_CALM_BURST, self._allowance + (now - self._allowed_at) * _CALM_RATE)
        self._allowed_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    async def _is_news(self, event: Event) -> bool:
        """Whether the state is another one than after the task's event before."""
        task = event.task
        before = self._states.pop(task.id, None)
        if before is None and task.revision > 1:
            history = await self._ledger.read_history(task.id)
            before = next((e.task.state for e in reversed(history) if e.task.revision < task.revision), None)
        self._states[task.id] = task.state
        if len(self._states) > _REMEMBERED:
            self._states.popitem(last=False)
        return task.state is not before


def _emit(ledger_id: str, event: Event) -> None:
    task = event.task
    related: list[dict[str, str]] = []
    if task.flow_run is not None:
        related.append(
            {
                "prefect.resource.id": f"prefect.flow-run.{task.flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": task.flow_run.name,
            }
        )
    emit_event(
        event_name(task.state),
        resource_of(task),
        occurred=task.update_time,
        related=related,
        payload=payload_of(task),
        # Always the same for the same event.
        id=uuid.uuid5(uuid.NAMESPACE_URL, f"{PREFIX}/{ledger_id}/{event.position}"),
    )
