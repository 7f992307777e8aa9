"""A front whose answers a test scripts, over real gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from grpc_server.errors import status_of
from kling_flows.errors import ERROR_DOMAIN, KlingFlowsError, LedgerUnavailable
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
    RetryCallbackDeliveryRequest,
    WatchVideoTasksRequest,
    WatchVideoTasksResponse,
)
from kling_flows.v1.video_task_service_pb2_grpc import (
    VideoTaskServiceServicer,
    add_VideoTaskServiceServicer_to_server,
)

Context = grpc.aio.ServicerContext
Answer = Callable[[Any, Context], Awaitable[Any]]
Stream = Callable[[WatchVideoTasksRequest, Context], AsyncIterator[WatchVideoTasksResponse]]

NAME = "videoTasks/vt-1"


class Front(VideoTaskServiceServicer):
    """Answers each call with the next scripted answer; the last one is for all further calls."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[Any] = []
        self.answers: list[Answer] = []
        self.streams: list[Stream] = []
        self.open_streams = 0

    async def CreateVideoTask(self, request: CreateVideoTaskRequest, context: Context) -> VideoTask:
        return await self._answer(request, context)

    async def BatchCreateVideoTasks(
        self, request: BatchCreateVideoTasksRequest, context: Context
    ) -> BatchCreateVideoTasksResponse:
        return await self._answer(request, context)

    async def GetVideoTask(self, request: GetVideoTaskRequest, context: Context) -> VideoTask:
        return await self._answer(request, context)

    async def ListVideoTasks(self, request: ListVideoTasksRequest, context: Context) -> ListVideoTasksResponse:
        return await self._answer(request, context)

    async def CancelVideoTask(self, request: CancelVideoTaskRequest, context: Context) -> VideoTask:
        return await self._answer(request, context)

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:
        return await self._answer(request, context)

    async def QuoteVideoTask(self, request: QuoteVideoTaskRequest, context: Context) -> Quote:
        return await self._answer(request, context)

    async def ListBudgets(self, request: ListBudgetsRequest, context: Context) -> ListBudgetsResponse:
        return await self._answer(request, context)

    async def ListCallbackDeliveries(
        self, request: ListCallbackDeliveriesRequest, context: Context
    ) -> ListCallbackDeliveriesResponse:
        return await self._answer(request, context)

    async def RetryCallbackDelivery(self, request: RetryCallbackDeliveryRequest, context: Context) -> CallbackDelivery:
        return await self._answer(request, context)

    async def WatchVideoTasks(
        self, request: WatchVideoTasksRequest, context: Context
    ) -> AsyncGenerator[WatchVideoTasksResponse]:
        self.requests.append(request)
        stream = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        self.open_streams += 1
        try:
            async for message in stream(request, context):
                yield message
        finally:
            self.open_streams -= 1

    @property
    def watches(self) -> list[WatchVideoTasksRequest]:
        """The requests of all streams so far."""
        return [request for request in self.requests if isinstance(request, WatchVideoTasksRequest)]

    async def _answer(self, request: Any, context: Context) -> Any:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request, context)


@asynccontextmanager
async def serve(front: Front, address: str = "127.0.0.1:0") -> AsyncGenerator[Front]:
    """Serve the front on a free port, or on the one that it had before."""
    server = grpc.aio.server()
    add_VideoTaskServiceServicer_to_server(front, server)
    port = server.add_insecure_port(address)
    front.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield front
    finally:
        await server.stop(0)


def task(state: str = "QUEUED", revision: int = 1, name: str = NAME, **rest: Any) -> VideoTask:
    """A video task."""
    result = VideoTask(name=name, state=VideoTask.State.Value(state), revision=revision, **rest)
    result.create_time.GetCurrentTime()
    result.update_time.GetCurrentTime()
    return result


def returns(message: Any) -> Answer:
    """An answer that is always this one."""

    async def answer(request: Any, context: Context) -> Any:
        return message

    return answer


def refuses(error: KlingFlowsError) -> Answer:
    """An answer that is this error, as our front sends it."""

    async def answer(request: Any, context: Context) -> Any:
        await context.abort_with_status(rpc_status.to_status(status_of(error)))

    return answer


def refuses_plainly(code: grpc.StatusCode) -> Answer:
    """An answer that is an error of the transport."""

    async def answer(request: Any, context: Context) -> Any:
        await context.abort(code, "somewhere on the way")

    return answer


def unavailable(seconds: float) -> Answer:
    """An answer that asks to come back later."""

    async def answer(request: Any, context: Context) -> Any:
        status = Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="draining")
        status.details.add().Pack(ErrorInfo(domain=ERROR_DOMAIN, reason=LedgerUnavailable.reason))
        retry = RetryInfo()
        retry.retry_delay.FromNanoseconds(int(seconds * 1e9))
        status.details.add().Pack(retry)
        await context.abort_with_status(rpc_status.to_status(status))

    return answer


def message(*tasks: VideoTask, token: str = "", synced: bool = False) -> WatchVideoTasksResponse:
    """One message of a stream."""
    return WatchVideoTasksResponse(video_tasks=tasks, resume_token=token, synced=synced)


def streams(*messages: WatchVideoTasksResponse, then: Answer | None = None, hang: bool = False) -> Stream:
    """A stream of messages that ends with OK, or with an error, or not at all."""

    async def stream(request: WatchVideoTasksRequest, context: Context) -> AsyncGenerator[WatchVideoTasksResponse]:
        for item in messages:
            yield item
        if hang:
            await asyncio.Event().wait()
        if then is not None:
            await then(request, context)

    return stream
