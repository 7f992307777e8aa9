"""What the front's tests are made with: fronts over one real ledger, callers, watchers, and errors decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, ResourceInfo, RetryInfo
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from grpc_server.server import Front
from kling_flows.engine.intake import new_video_task
from kling_flows.ledger import Ledger, State, UpstreamRecord, VideoTask
from kling_flows.settings import Settings
from kling_flows.upstream import Provider, TextToVideoRequest
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

T = TypeVar("T")

#: Seconds after which something that must happen has not happened.
PATIENCE = 60.0


class Rig:
    """A ledger file, and as many fronts over it as a test wants."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self._stack = stack

    async def open_ledger(self) -> Ledger:
        return await self._stack.enter_async_context(await Ledger.open(self.url))

    async def serve(self, ledger: Ledger | None = None, **settings: Any) -> Served:
        ledger = ledger or await self.open_ledger()
        front = await Front.start(front_settings(**settings), ledger)
        self._stack.push_async_callback(front.drain)
        return await self._stack.enter_async_context(Served(front, ledger))


def front_settings(**settings: Any) -> Settings:
    return Settings.load(**{"listen": "127.0.0.1:0", "provider": "sandbox", **settings})


class Served:
    """One front, a caller of it, and its own handle on the ledger."""

    def __init__(self, front: Front, ledger: Ledger) -> None:
        self.front = front
        self.ledger = ledger
        self.channel = grpc.aio.insecure_channel(front.address)
        self.stub: Any = VideoTaskServiceStub(self.channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()

    async def create(self, prompt: str = "a cat", **fields: Any) -> pb.VideoTask:
        return await self.stub.CreateVideoTask(create_request(prompt, **fields))

    async def get(self, name: str, **fields: Any) -> pb.VideoTask:
        return await self.stub.GetVideoTask(rpc.GetVideoTaskRequest(name=name, **fields))

    async def list(self, **fields: Any) -> rpc.ListVideoTasksResponse:
        return await self.stub.ListVideoTasks(rpc.ListVideoTasksRequest(**fields))

    async def cancel(self, name: str, **fields: Any) -> pb.VideoTask:
        return await self.stub.CancelVideoTask(rpc.CancelVideoTaskRequest(name=name, **fields))

    def watch(self, *, heartbeat: float | None = None, **fields: Any) -> Stream:
        request = rpc.WatchVideoTasksRequest(**fields)
        if heartbeat is not None:
            request.heartbeat_interval.CopyFrom(Duration(nanos=round(heartbeat * 1e9) % 10**9, seconds=int(heartbeat)))
        return Stream(self.stub.WatchVideoTasks(request))

    async def move(self, name: str, state: State) -> VideoTask:
        """Bring a task into a state that may follow, as a runner would."""
        task_id = name.removeprefix("videoTasks/")
        return await self.ledger.advance(task_id, lambda task: task.model_copy(update={"state": state}))

    async def touch(self, name: str) -> VideoTask:
        """Make one more event of a task that stays in its state."""
        task_id = name.removeprefix("videoTasks/")
        return await self.ledger.advance(task_id, lambda task: task.model_copy(update={"typical_seconds": 60.0}))


def create_request(
    prompt: str = "a cat",
    *,
    labels: dict[str, str] | None = None,
    spec: spec_pb.TextToVideo | None = None,
    **fields: Any,
) -> rpc.CreateVideoTaskRequest:
    task = pb.VideoTask(text_to_video=spec or spec_pb.TextToVideo(prompt=prompt), labels=labels or {})
    return rpc.CreateVideoTaskRequest(video_task=task, **fields)


def new_record(task_id: str, *, tenant: str = "default", labels: dict[str, str] | None = None) -> VideoTask:
    """A QUEUED task, for tests that fill the ledger without a caller."""
    request = TextToVideoRequest(prompt="a cat")
    return new_video_task(request, Provider.SANDBOX, tenant=tenant, task_id=task_id, labels=labels)


def upstream_record(task: VideoTask) -> UpstreamRecord:
    return UpstreamRecord(
        provider="sandbox",
        dialect="legacy",
        base_url="http://127.0.0.1:1",
        account="acc-1",
        external_task_id=f"kf-{task.id}",
        task_id="812",
        request_id="req-1",
        status="succeed",
        status_message="done",
        intent_time=task.create_time,
        submit_time=task.create_time,
        submit_attempts=2,
        settled_units="1.5",
    )


@dataclass
class Refusal:
    """A status, decoded."""

    code: grpc.StatusCode
    message: str
    info: ErrorInfo = field(default_factory=ErrorInfo)
    violations: list[BadRequest.FieldViolation] = field(default_factory=list)
    resource: ResourceInfo | None = None
    retry_seconds: float | None = None
    quota: QuotaFailure | None = None

    @property
    def reason(self) -> str:
        assert self.info.domain == "kling-flows"
        return self.info.reason

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.violations]

    @classmethod
    def of(cls, error: grpc.aio.AioRpcError) -> Self:
        refusal = cls(error.code(), error.details() or "")
        status = rpc_status.from_call(cast(Any, error))
        assert status is not None, f"{error.code()} without details: {error.details()}"
        for detail in status.details:
            bad_request, retry, resource, quota = BadRequest(), RetryInfo(), ResourceInfo(), QuotaFailure()
            if detail.Unpack(refusal.info):
                continue
            if detail.Unpack(bad_request):
                refusal.violations = list(bad_request.field_violations)
            elif detail.Unpack(retry):
                refusal.retry_seconds = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(resource):
                refusal.resource = resource
            elif detail.Unpack(quota):
                refusal.quota = quota
        return refusal


async def refused(call: Awaitable[Any]) -> Refusal:
    """The refusal that a call must end with."""
    try:
        answer = await asyncio.wait_for(call, PATIENCE)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    raise AssertionError(f"expected an error, got {answer}")


async def reflected(served: Served) -> set[str]:
    """The services that reflection lists."""
    channel: Any = served.channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    answer = await asyncio.wait_for(call.read(), PATIENCE)
    call.cancel()
    return {service.name for service in answer.list_services_response.service}


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what must come true."""
    async with asyncio.timeout(PATIENCE):
        while not await check():
            await asyncio.sleep(0.01)


class Stream:
    """A watch as its caller reads it."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.token = ""

    async def next(self) -> rpc.WatchVideoTasksResponse:
        message = await asyncio.wait_for(self.call.read(), PATIENCE)
        assert message is not grpc.aio.EOF, "the stream ended"
        assert message.resume_token
        self.token = message.resume_token
        return message

    async def until_synced(self) -> list[pb.VideoTask]:
        """All tasks up to the message with ``synced``."""
        tasks: list[pb.VideoTask] = []
        while True:
            message = await self.next()
            tasks.extend(message.video_tasks)
            if message.synced:
                return tasks

    async def take(self, count: int) -> list[pb.VideoTask]:
        """The next ``count`` tasks; there must not be more in the same message."""
        tasks: list[pb.VideoTask] = []
        while len(tasks) < count:
            message = await self.next()
            assert not message.synced
            tasks.extend(message.video_tasks)
        assert len(tasks) == count
        return tasks

    async def ended(self) -> bool:
        """Whether the stream has ended with OK; raises if it ended otherwise."""
        message = await asyncio.wait_for(self.call.read(), PATIENCE)
        return message is grpc.aio.EOF

    async def drained(self) -> str:
        """Read on until the server drains; the token that it says good-bye with."""
        refusal = await refused(self._read_on())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_UNAVAILABLE")
        return refusal.info.metadata["resume_token"]

    async def _read_on(self) -> None:
        while await self.call.read() is not grpc.aio.EOF:
            pass

    def cancel(self) -> None:
        self.call.cancel()


def sights(tasks: Sequence[pb.VideoTask]) -> list[tuple[str, int]]:
    """What a watcher saw: names and revisions, in order."""
    return [(task.name, task.revision) for task in tasks]
