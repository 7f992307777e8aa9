"""Reports changes of state to the ``callback_url`` of an order (fact sheet 6).

Retries, time-outs, order and the early states are not documented, and so are settings. A sandbox calls nobody but this
machine: a URL with another host than a loopback address or ``localhost`` is recorded as refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, TypedDict

import httpx
from standardwebhooks import Webhook

from kling_flows.sandbox.auth import OFFICIAL_ACCOUNT
from kling_flows.sandbox.callback_wire import (
    FORGER,
    allowed_target,
    body_of,
    open_client,
    post,
    showable,
    signature,
)
from kling_flows.sandbox.fault_board import FaultBoard
from kling_flows.sandbox.faults import Fault, Rule
from kling_flows.sandbox.settings import SandboxSettings
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.view import UNKNOWN_WORD, TaskView, Viewer
from kling_flows.upstream.constants import Dialect, StatusWord

#: Most seconds that a create waits for its early callback.
_EARLY_SECONDS: Final = 30.0
#: Deliveries that are remembered; the oldest go first.
_REMEMBERED: Final = 100_000


class CallbackRecord(TypedDict):
    """One event and what became of it.

    ``url`` is without its query, ``status`` is legacy's word for the state. ``outcome`` is ``pending``, ``delivered``,
    ``failed`` (all attempts in vain), ``lost`` (a fault), ``forged`` (sent by a fault beside the true one), ``refused``
    (a host that is not this machine, or no http URL) or ``cancelled`` (the sandbox has stopped).
    """

    task_id: str
    webhook_id: str
    url: str
    status: str
    attempts: int
    http_status: int | None
    delivered: bool
    outcome: str


@dataclass(eq=False, slots=True)
class _Event:
    task: Task
    state: StatusWord
    updated_ms: int
    base: str
    target: httpx.URL
    record: CallbackRecord
    #: Done after the first attempt, or once there will be none.
    tried: asyncio.Future[None]
    #: What has to wait for the first attempt.
    followers: list[_Event] = field(default_factory=list["_Event"])
    rule: Rule | None = None
    ruled: bool = False


class CallbackSender:
    """Sends what is due, a few at once.

    One task waits for the next time at which something is due, and lets as many deliveries run as are allowed, so that
    thousands of tasks cost little more than their deliveries.

    Args:
        settings: The sandbox's settings.
        faults: The rules in force.
        viewer: Looks at tasks.
    """

    def __init__(self, settings: SandboxSettings, faults: FaultBoard, viewer: Viewer) -> None:
        self._settings = settings
        self._faults = faults
        self._viewer = viewer
        self._signers = [Webhook(secret) for secret in settings.callback_secrets]
        self._records: deque[CallbackRecord] = deque(maxlen=_REMEMBERED)
        self._ids = itertools.count(time.time_ns())
        self._numbers = itertools.count()
        # What is to be sent, soonest first; the number only keeps events from being compared.
        self._due: list[tuple[float, int, _Event]] = []
        self._early: dict[str, _Event] = {}
        self._changed = asyncio.Event()
        self._free = asyncio.Semaphore(settings.callback_concurrency)
        self._running: dict[asyncio.Task[None], _Event] = {}
        self._pump: asyncio.Task[None] | None = None
        self._client: httpx.AsyncClient | None = None
        self._stopped = False

    def schedule(self, task: Task, base: str) -> None:
        """Report the task's changes of state; ``base`` is what the URLs of results begin with."""
        url = task.order.callback_url
        if url is None or self._stopped:
            return
        target = allowed_target(url)
        events: list[tuple[float, _Event]] = []
        for state, at, updated_ms in _changes(task):
            if state in self._settings.callback_states:
                events.append((at, self._event(task, state, updated_ms, base, target)))
            if target is None and events:
                # It would be refused for every state alike.
                return
        if not events:
            return
        rule = self._faults.for_events(task.order.searchable)
        if rule is not None and rule.fault is Fault.EARLY:
            first = events[0][1]
            self._early[task.task_id] = first
            events[0] = (task.created_at, first)
        if rule is not None and rule.fault is Fault.REORDERED:
            _reorder(events)
        for at, event in events:
            self._put(at, event)

    async def early(self, task: Task) -> None:
        """Wait for the first attempt at a callback that has to come before its create's answer; else go on at once."""
        event = self._early.pop(task.task_id, None)
        if event is not None:
            await asyncio.wait([event.tried], timeout=_EARLY_SECONDS)

    def records(self) -> list[CallbackRecord]:
        """Every event, also those that are still to come, in the order in which they were planned."""
        return [record.copy() for record in list(self._records)]

    async def stop(self) -> None:
        """Send nothing more; what is under way is cancelled."""
        self._stopped = True
        unsent = [event for _, _, event in self._due] + list(self._running.values())
        tasks = [*self._running, *([self._pump] if self._pump is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._due.clear()
        for event in unsent:
            for each in (event, *event.followers):
                _end(each, "cancelled")
        if self._client is not None:
            await self._client.aclose()

    def _event(self, task: Task, state: StatusWord, updated_ms: int, base: str, target: httpx.URL | None) -> _Event:
        record = self._record(task, state, "pending" if target is not None else "refused")
        tried = asyncio.get_running_loop().create_future()
        return _Event(task, state, updated_ms, base, target or httpx.URL(), record, tried)

    def _record(self, task: Task, state: StatusWord, outcome: str) -> CallbackRecord:
        record = CallbackRecord(
            task_id=task.task_id,
            webhook_id=str(next(self._ids)),
            url=showable(task.order.callback_url or ""),
            status=state.value,
            attempts=0,
            http_status=None,
            delivered=False,
            outcome=outcome,
        )
        self._records.append(record)
        return record

    def _put(self, at: float, event: _Event) -> None:
        if self._stopped:
            _end(event, "cancelled")
            return
        heapq.heappush(self._due, (at, next(self._numbers), event))
        if self._due[0][2] is event:
            self._changed.set()
        if self._pump is None:
            self._client = open_client(self._settings)
            self._pump = asyncio.create_task(self._run(self._client))

    async def _run(self, client: httpx.AsyncClient) -> None:
        while True:
            self._changed.clear()
            wait = self._due[0][0] - time.monotonic() if self._due else math.inf
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait if math.isfinite(wait) else None):
                        await self._changed.wait()
                continue
            # Taken out only once it can be sent, so that a stop finds it.
            await self._free.acquire()
            _, _, event = heapq.heappop(self._due)
            task = asyncio.create_task(self._deliver(client, event))
            # The loop holds its tasks only weakly.
            self._running[task] = event
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._free.release()

    async def _deliver(self, client: httpx.AsyncClient, event: _Event) -> None:
        first = event.record["attempts"] == 0
        if not event.ruled:
            event.ruled = True
            event.rule = self._faults.for_event(event.task.order.searchable, event.state)
            if event.rule is not None and event.rule.fault is Fault.SLOW:
                self._put(time.monotonic() + event.rule.delay, event)
                return
        fault = None if event.rule is None else event.rule.fault
        if fault is Fault.LOST:
            _end(event, "lost")
        else:
            if fault is Fault.FORGED and first:
                await self._forge(client, event)
            await self._attempt(client, event)
            if fault is Fault.DUPLICATED and first:
                await self._send(client, event, event.record, self._body(event), forged=False)
        if not event.tried.done():
            event.tried.set_result(None)
        followers, event.followers = event.followers, []
        for follower in followers:
            self._put(time.monotonic(), follower)

    async def _attempt(self, client: httpx.AsyncClient, event: _Event) -> None:
        record = event.record
        status = await self._send(client, event, record, self._body(event), forged=False)
        if status is not None and 200 <= status < 300:
            record["delivered"] = True
            record["outcome"] = "delivered"
        elif record["attempts"] >= self._settings.callback_attempts:
            record["outcome"] = "failed"
        else:
            wait = self._settings.callback_retry_seconds * 2 ** (record["attempts"] - 1)
            self._put(time.monotonic() + wait, event)

    async def _forge(self, client: httpx.AsyncClient, event: _Event) -> None:
        """Say something else of the task than is true, and sign it with a secret that nobody has."""
        lie = StatusWord.SUCCEED if event.state is StatusWord.FAILED else StatusWord.FAILED
        record = self._record(event.task, lie, "forged")
        view = self._viewer.in_state(event.task, lie, event.updated_ms, event.base)
        await self._send(client, event, record, body_of(view), forged=True)

    async def _send(
        self, client: httpx.AsyncClient, event: _Event, record: CallbackRecord, body: str, *, forged: bool
    ) -> int | None:
        record["attempts"] += 1
        headers: dict[str, str] = {}
        signers = self._signers if self._signs(event.task) else []
        if signers:
            headers = signature([FORGER] if forged else signers, record["webhook_id"], body)
        status = await post(client, event.target, body, headers, self._settings.callback_timeout)
        record["http_status"] = status
        return status

    def _signs(self, task: Task) -> bool:
        # CometAPI documents no signature (fact sheet 6).
        if task.account != OFFICIAL_ACCOUNT:
            return False
        return task.order.dialect is Dialect.STANDARD or self._settings.sign_legacy_callbacks

    def _body(self, event: _Event) -> str:
        view = self._viewer.in_state(event.task, event.state, event.updated_ms, event.base)
        if event.rule is not None and event.rule.fault is Fault.UNKNOWN_STATUS:
            view = TaskView(event.task, event.state, event.updated_ms, word=event.rule.message or UNKNOWN_WORD)
        return body_of(view)


def _changes(task: Task) -> list[tuple[StatusWord, float, int]]:
    """States of a task, each with the ``time.monotonic()`` and the Unix milliseconds at which it begins."""
    processing_ms = task.created_ms + round((task.processing_at - task.created_at) * 1000)
    changes = [
        (StatusWord.SUBMITTED, task.created_at, task.created_ms),
        (StatusWord.PROCESSING, task.processing_at, processing_ms),
    ]
    if math.isfinite(task.final_at):
        changes.append((task.outcome, task.final_at, task.finished_ms))
    return changes


def _reorder(events: list[tuple[float, _Event]]) -> None:
    """Make ``processing`` wait for the end of the task."""
    late = [(at, event) for at, event in events if event.state is StatusWord.PROCESSING]
    if late and events[-1][1].state in (StatusWord.SUCCEED, StatusWord.FAILED):
        events.remove(late[0])
        events[-1][1].followers.append(late[0][1])


def _end(event: _Event, outcome: str) -> None:
    if event.record["outcome"] == "pending":
        event.record["outcome"] = outcome
    if not event.tried.done():
        event.tried.set_result(None)
