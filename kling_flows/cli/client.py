"""A small client of the front: calls that are repeated while that is safe, and a watch that survives disconnects."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration

from kling_flows.cli.status import details_of
from kling_flows.errors import ResumeTokenExpired, ServerUnavailable
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import (
    BatchCreateVideoTasksRequest,
    BatchCreateVideoTasksResponse,
    CallbackDelivery,
    CancelVideoTaskRequest,
    CreateVideoTaskRequest,
    GetVideoTaskRequest,
    ListBudgetsRequest,
    ListBudgetsResponse,
    ListCallbackDeliveriesRequest,
    ListCallbackDeliveriesResponse,
    ListModelsRequest,
    ListModelsResponse,
    ListVideoTasksRequest,
    ListVideoTasksResponse,
    Quote,
    QuoteVideoTaskRequest,
    ResolveVideoTaskRequest,
    RetryCallbackDeliveryRequest,
    WatchVideoTasksRequest,
    WatchVideoTasksResponse,
)
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

_Request = TypeVar("_Request", contravariant=True)
_Response = TypeVar("_Response", covariant=True)

FINAL_STATES: Final = frozenset(
    {VideoTask.SUCCEEDED, VideoTask.FAILED, VideoTask.CANCELLED, VideoTask.EXPIRED, VideoTask.LOST}
)

#: Seconds for one attempt of a unary call; a create is answered in milliseconds, also on a busy server.
_CALL_SECONDS: Final = 20.0

_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 1.0

_HEARTBEAT_SECONDS: Final = 15

#: A stream without even a heartbeat for so long is dead, whatever its connection says.
_SILENCE_SECONDS: Final = 50.0

#: Ends of a stream that say nothing about its tasks, if they come without details of ours.
_DISCONNECTS: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
    }
)

_CHANNEL_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    # The front takes a ping each 10 s; a dead connection is noticed within 40 s.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The transport's own pauses would outlast our patience.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A page of 1,000 tasks with long prompts passes the default of 4 MiB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


class _Method(Protocol[_Request, _Response]):
    def __call__(
        self, request: _Request, /, *, timeout: float | None = None, metadata: Sequence[tuple[str, str]] | None = None
    ) -> Awaitable[_Response]: ...


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a call is repeated before its error is raised.

    Args:
        unreachable: While nobody answers; enough for a server that was started a moment ago.
        unavailable: While the server says that it is unavailable for now.
        lost: While a watch that has run before cannot go on.
    """

    unreachable: float = 4.0
    unavailable: float = 15.0
    lost: float = 600.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A video task as a watch delivered it.

    Args:
        task: All of it.
        live: False in the snapshot that a watch begins with.
    """

    task: VideoTask
    live: bool


class VideoTaskClient:
    """Calls to one front; an async context manager.

    Args:
        address: ``host:port`` or ``unix:path``.
        patience: How long calls are repeated.
        notice: Told, in words for people, when the client begins to wait for the server.
        token: Bearer token of the caller.
        credentials: TLS; without it nothing is encrypted.
    """

    def __init__(
        self,
        address: str,
        *,
        patience: Patience | None = None,
        notice: Callable[[str], None] | None = None,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._address = address
        self._patience = patience or Patience()
        self._notice = notice or _say_nothing
        # Otherwise gRPC writes its own words about a server that goes away between ours.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        options = _channel_options(address)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._metadata: Sequence[tuple[str, str]] = () if token is None else (("authorization", f"Bearer {token}"),)
        self._stub = VideoTaskServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        """Nothing is sent before the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the connection; calls under way end."""
        await self._channel.close()

    async def health(self) -> str:
        """What the server says of its health, for example ``SERVING``; asked once."""
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        messages: Any = health_pb2
        stub: Any = cast("Any", health_pb2_grpc).HealthStub(self._channel)
        answer = await stub.Check(messages.HealthCheckRequest(), timeout=_CALL_SECONDS)
        return messages.HealthCheckResponse.ServingStatus.Name(answer.status)

    async def create(self, request: CreateVideoTaskRequest) -> VideoTask:
        """Create a video task; ``request_id`` has to be set, because the call is repeated."""
        if not request.request_id:
            raise ValueError("a create without a request_id cannot be repeated safely")
        return await self._call(self._stub.CreateVideoTask, request)

    async def create_all(self, requests: Sequence[CreateVideoTaskRequest]) -> BatchCreateVideoTasksResponse:
        """Create up to 1,000 video tasks or none, or with ``validate_only`` check each; repeated as a create is."""
        if not all(request.request_id for request in requests):
            raise ValueError("a create without a request_id cannot be repeated safely")
        only_checked = any(request.validate_only for request in requests)
        batch = BatchCreateVideoTasksRequest(requests=requests, all_or_nothing=not only_checked)
        return await self._call(self._stub.BatchCreateVideoTasks, batch)

    async def get(self, name: str) -> VideoTask:
        """One video task."""
        return await self._call(self._stub.GetVideoTask, GetVideoTaskRequest(name=name))

    async def list(self, request: ListVideoTasksRequest) -> ListVideoTasksResponse:
        """One page of video tasks."""
        return await self._call(self._stub.ListVideoTasks, request)

    async def cancel(self, request: CancelVideoTaskRequest) -> VideoTask:
        """Cancel a video task."""
        return await self._call(self._stub.CancelVideoTask, request)

    async def list_models(self, request: ListModelsRequest) -> ListModelsResponse:
        """What the models can do and cost."""
        return await self._call(self._stub.ListModels, request)

    async def quote(self, request: QuoteVideoTaskRequest) -> Quote:
        """What a video would cost."""
        return await self._call(self._stub.QuoteVideoTask, request)

    async def list_budgets(self) -> ListBudgetsResponse:
        """The budgets and what is left of them."""
        return await self._call(self._stub.ListBudgets, ListBudgetsRequest())

    async def list_callbacks(self, request: ListCallbackDeliveriesRequest) -> ListCallbackDeliveriesResponse:
        """One page of the calls to callers' own addresses."""
        return await self._call(self._stub.ListCallbackDeliveries, request)

    async def retry_callback(self, name: str) -> CallbackDelivery:
        """Try a DEAD delivery again."""
        return await self._call(self._stub.RetryCallbackDelivery, RetryCallbackDeliveryRequest(name=name))

    async def resolve(self, request: ResolveVideoTaskRequest) -> VideoTask:
        """Decide about an UNRESOLVED video task."""
        return await self._call(self._stub.ResolveVideoTask, request)

    async def watch(
        self, names: Sequence[str] = (), *, filter_: str = "", until_final: bool = False
    ) -> AsyncGenerator[Seen]:
        """Video tasks as they change, through disconnects and restarts of the server; no change comes twice.

        Close the generator (:func:`contextlib.aclosing`) when leaving early: a stream that is only dropped stays open.

        Args:
            names: Which tasks; all if there is neither this nor ``filter_``.
            filter_: Which tasks.
            until_final: End when all ``names`` are final.
        """
        request = WatchVideoTasksRequest(
            names=names,
            filter=filter_,
            until_final=until_final,
            heartbeat_interval=Duration(seconds=_HEARTBEAT_SECONDS),
        )
        pending = set(names)
        revisions: dict[str, int] = {}
        outage = _Outage(self._patience, self._notice, self._address)
        while True:
            live = bool(request.resume_token)
            try:
                async with aclosing(self._stream(request)) as messages:
                    async for message in messages:
                        outage.over()
                        for task in message.video_tasks:
                            # A snapshot after a lost position repeats what was seen before.
                            if task.revision <= revisions.get(task.name, 0):
                                continue
                            revisions[task.name] = task.revision
                            if task.state in FINAL_STATES:
                                pending.discard(task.name)
                            yield Seen(task, live)
                        request.resume_token = message.resume_token
                        live = live or message.synced
                        if until_final and not pending:
                            return
                delay = outage.delay(None)
            except grpc.aio.AioRpcError as error:
                if request.resume_token and details_of(error).reason == ResumeTokenExpired.reason:
                    request.resume_token = ""
                    continue
                delay = outage.delay(error)
            await asyncio.sleep(delay)

    async def _stream(self, request: WatchVideoTasksRequest) -> AsyncGenerator[WatchVideoTasksResponse]:
        call = self._stub.WatchVideoTasks(request, metadata=self._metadata)
        try:
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await call.read()
                if not isinstance(message, WatchVideoTasksResponse):
                    return
                yield message
        except TimeoutError:
            return
        finally:
            # A stream that is not cancelled is kept until its channel closes (grpc/grpc#43462).
            call.cancel()

    async def _call(self, method: _Method[_Request, _Response], request: _Request) -> _Response:
        outage = _Outage(self._patience, self._notice, self._address)
        while True:
            try:
                return await method(request, timeout=_CALL_SECONDS, metadata=self._metadata)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                delay = outage.delay(error)
            await asyncio.sleep(delay)


def _say_nothing(words: str) -> None:
    pass


class _Outage:
    """Decides how long to wait for a server that is away, and when to stop waiting."""

    def __init__(self, patience: Patience, notice: Callable[[str], None], address: str) -> None:
        self._patience = patience
        self._notice = notice
        self._address = address
        self._reached = False
        self._failures = 0
        self._noticed = False
        self._began = 0.0

    def over(self) -> None:
        """The server has answered."""
        self._reached = True
        self._failures = 0
        if self._noticed:
            self._noticed = False
            self._notice(f"{self._address} is back")

    def delay(self, error: grpc.aio.AioRpcError | None) -> float:
        """Seconds until the next try.

        Args:
            error: What ended the call; None if it ended without a word, which is a disconnect as well.

        Raises:
            AioRpcError: ``error``, if a repetition does not mend it or patience is at its end.
            ServerUnavailable: the same, without an error.
        """
        now = asyncio.get_running_loop().time()
        if not self._failures:
            self._began = now
        details = None if error is None else details_of(error)
        told = details is not None and bool(details.reason)
        if error is not None and not _is_disconnect(error, told=told):
            raise error
        pause = min(_FIRST_DELAY * 2**self._failures, _LONGEST_DELAY) * random.uniform(0.7, 1.3)
        if details is not None and details.retry_after is not None:
            pause = max(pause, details.retry_after)
        if now + pause - self._began > self._limit(told=told):
            raise error or ServerUnavailable(f"{self._address} lets a watch end or fall silent without a reason")
        self._failures += 1
        # Not worth a word if the first repetition brings it back, as when a proxy limits how long a stream lasts.
        if self._failures == 2:
            self._noticed = True
            self._notice(f"{self._address} {'is unavailable for now' if told else 'does not answer'}; trying again")
        return pause

    def _limit(self, *, told: bool) -> float:
        if self._reached:
            return self._patience.lost
        return self._patience.unavailable if told else self._patience.unreachable


def _is_disconnect(error: grpc.aio.AioRpcError, *, told: bool) -> bool:
    return error.code() == grpc.StatusCode.UNAVAILABLE or (not told and error.code() in _DISCONNECTS)


def _channel_options(address: str) -> Sequence[tuple[str, int]]:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or host == "::1" or host.startswith("127."):
        # A proxy from the environment cannot reach this machine's own addresses, and gRPC would ask it all the same.
        return (*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0))
    return _CHANNEL_OPTIONS
