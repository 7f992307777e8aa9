"""Calls to the callers' own addresses: one per state change of a task that names a ``callback_url``.

Each call is a row in the ledger's outbox, written in the transaction of its event. It is delivered at least once, in
the order of the task's events; a later one waits until the earlier is DELIVERED or DEAD. The body is JSON::

    {"type": "video_task.succeeded", "timestamp": "2026-11-21T12:00:00.000000Z", "data": {
        "name": "videoTasks/…", "state": "SUCCEEDED", "revision": 6, "labels": {}, "create_time": "…",
        "update_time": "…", "end_time": "…", "artifacts": [{"kind": "VIDEO", "uri": "…", "manifest_uri": "…",
        "sha256": "<hex>", "size_bytes": 1, "media_type": "video/mp4", "duration_seconds": 5.0}],
        "error": {"code": "…", "reason": "…", "message": "…"}, "cost": {"settled_units": "…"}}}

``type`` ends in the state in lower case, or is ``video_task.archived`` for a video that came after the task's end. What
is not known is left out. With ``settings.webhook_secret`` calls are signed as Standard Webhooks has it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import httpx
import structlog
from standardwebhooks.webhooks import Webhook

from kling_flows.engine.identity import public_task_id, public_text
from kling_flows.engine.signatures import webhook_of
from kling_flows.errors import AddressRefused, LedgerUnavailable
from kling_flows.ledger import Delivery, DeliveryState, Ledger, State, VideoTask
from kling_flows.outbound import PUBLIC_ONLY, AddressPolicy, policy_for
from kling_flows.outbound.client import guarded_client
from kling_flows.settings import Settings
from kling_flows.upstream import Provider

log = structlog.get_logger(__name__)

#: Seconds between the attempts of one delivery, as Standard Webhooks recommends; after the last one it is DEAD.
RETRY_DELAYS: Final = (5.0, 30.0, 120.0, 600.0, 3_600.0, 21_600.0, 86_400.0)

#: Seconds that one call may take altogether.
DEADLINE: Final = 15.0

#: Seconds for which no other runner takes a delivery that one has taken.
_LEASE_SECONDS: Final = 60.0

#: Calls under way at a time.
_CONCURRENCY: Final = 32

#: Bytes of an answer that are read, so that its connection can be used again.
_ANSWER_BYTES: Final = 1_024
_ANSWER_SECONDS: Final = 1.0

#: Longest time between two looks into the outbox, in seconds; commits wake earlier.
_LOOK_SECONDS: Final = 5.0

#: Seconds for which commits are gathered before the outbox is looked into again.
_GATHER_SECONDS: Final = 0.05

_JITTER: Final = 0.1


@asynccontextmanager
async def watched_outbox(settings: Settings, ledger: Ledger) -> AsyncGenerator[None]:
    """Callers are called while this context is open.

    Raises:
        ConfigurationError: the secret is none.
    """
    secret = settings.webhook_secret
    webhook = None if secret is None else webhook_of("KLING_FLOWS_WEBHOOK_SECRET", secret)
    delivering = asyncio.create_task(_Deliverer(ledger, webhook, _policy(settings)).run(), name="outbox")
    try:
        yield
    finally:
        delivering.cancel()
        await asyncio.wait({delivering})


def _policy(settings: Settings) -> AddressPolicy:
    account = settings.account()
    # Who plays with the sandbox on this machine has the receiver here as well.
    return policy_for(account.base_url) if account.provider is Provider.SANDBOX else PUBLIC_ONLY


def body_of(delivery: Delivery) -> bytes:
    """The body of a call; the same for every attempt."""
    task = delivery.task
    late = task.state.final and task.end_time is not None and task.end_time < task.update_time
    word = "archived" if late and task.state is not State.SUCCEEDED else task.state.value.lower()
    body = {"type": f"video_task.{word}", "timestamp": _moment(task.update_time), "data": _data(task)}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _data(task: VideoTask) -> dict[str, Any]:
    data: dict[str, Any] = {
        "name": f"videoTasks/{public_task_id(task.id)}",
        "state": task.state.value,
        "revision": task.revision,
        "labels": task.labels,
        "create_time": _moment(task.create_time),
        "update_time": _moment(task.update_time),
    }
    if task.end_time is not None:
        data["end_time"] = _moment(task.end_time)
    if task.artifacts:
        data["artifacts"] = [artifact.model_dump(mode="json", exclude_none=True) for artifact in task.artifacts]
    if task.error is not None:
        data["error"] = {
            "code": task.error.grpc_code,
            "reason": task.error.reason,
            "message": public_text(task.error.message),
        }
    if task.upstream is not None and task.upstream.settled_units:
        data["cost"] = {"settled_units": task.upstream.settled_units}
    return data


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class _Deliverer:
    def __init__(self, ledger: Ledger, webhook: Webhook | None, policy: AddressPolicy) -> None:
        self._ledger = ledger
        self._webhook = webhook
        self._policy = policy
        self._under_way = 0
        self._client: httpx.AsyncClient | None = None

    async def run(self) -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as calls:
            while True:
                changes = self._ledger.changes()
                sleep = _LOOK_SECONDS
                try:
                    sleep = await self._start_due(stack, calls)
                except LedgerUnavailable as error:
                    log.warning("the outbox cannot be read", error=error.message)
                except Exception:
                    # Without this loop nobody would be called any more.
                    log.exception("the outbox cannot be read")
                # The end of a call is a commit too.
                await changes.wait(sleep)
                await asyncio.sleep(_GATHER_SECONDS)

    async def _start_due(self, stack: AsyncExitStack, calls: asyncio.TaskGroup) -> float:
        """Begin the calls that are due; answers for how long there is nothing to do, in seconds."""
        room = _CONCURRENCY - self._under_way
        due = await self._ledger.next_delivery_time()
        if due is None or room <= 0:
            return _LOOK_SECONDS
        if due > time.time():
            return min(due - time.time(), _LOOK_SECONDS)
        if self._client is None:
            # On demand: reading the certificates takes a while, and most never need them.
            self._client = await stack.enter_async_context(
                guarded_client(self._policy, timeout=DEADLINE, follow_redirects=False)
            )
        for delivery in await self._ledger.claim_deliveries(room, _LEASE_SECONDS):
            self._under_way += 1
            calls.create_task(self._deliver(self._client, delivery), name=f"delivery-{delivery.id}")
        return 0.0 if self._under_way < _CONCURRENCY else _LOOK_SECONDS

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            error, hopeless = await self._call(client, delivery)
            if not error:
                await self._ledger.settle_delivery(delivery, DeliveryState.DELIVERED)
            elif hopeless or delivery.attempts > len(RETRY_DELAYS):
                log.warning("a callback is given up", delivery=delivery.id, video_task=delivery.task.id, error=error)
                await self._ledger.settle_delivery(delivery, DeliveryState.DEAD, last_error=error)
            else:
                delay = RETRY_DELAYS[delivery.attempts - 1] * (1 + random.uniform(-_JITTER, _JITTER))
                await self._ledger.settle_delivery(
                    delivery, DeliveryState.PENDING, next_time=time.time() + delay, last_error=error
                )
        except LedgerUnavailable as error:
            log.warning("the outcome of a callback cannot be written; it is repeated", error=error.message)
        except Exception:
            # It would take the calls of all others with it.
            log.exception("the outcome of a callback cannot be written; it is repeated", delivery=delivery.id)
        finally:
            self._under_way -= 1

    async def _call(self, client: httpx.AsyncClient, delivery: Delivery) -> tuple[str, bool]:
        """Call once; answers what went wrong, empty if nothing, and whether it always will."""
        body = body_of(delivery)
        try:
            async with (
                asyncio.timeout(DEADLINE),
                client.stream(
                    "POST",
                    delivery.task.request.callback_url or "",
                    content=body,
                    headers=self._headers(delivery, body),
                ) as response,
            ):
                status = response.status_code
                # The status says all; whatever is wrong with the rest changes nothing.
                with suppress(TimeoutError, httpx.HTTPError, httpx.StreamError):
                    async with asyncio.timeout(_ANSWER_SECONDS):
                        await _read_a_little(response)
        except AddressRefused:
            return "the address is not one that may be called", True
        except TimeoutError:
            return f"no answer within {DEADLINE:.0f} s", False
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Its text may hold the address.
            return f"no answer ({type(error).__name__})", False
        except Exception:
            log.exception("a callback failed", delivery=delivery.id)
            return "the call could not be made", False
        if 200 <= status < 300:
            return "", False
        return f"the answer was {status}", status == HTTPStatus.GONE

    def _headers(self, delivery: Delivery, body: bytes) -> dict[str, str]:
        message_id = f"msg_{self._ledger.ledger_id}_{delivery.event_position}"
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "kling-flows",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
        }
        if self._webhook is not None:
            headers["webhook-signature"] = self._webhook.sign(message_id, now, body.decode())
        return headers


async def _read_a_little(response: httpx.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _ANSWER_BYTES:
            return
