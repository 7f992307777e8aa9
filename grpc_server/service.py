"""The RPCs of VideoTaskService. Errors are raised; the interceptor makes statuses of them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

import grpc

from grpc_server.admission import Admission
from grpc_server.convert import message_of
from grpc_server.filtering import parse_filter
from grpc_server.hub import Hub
from grpc_server.intake import read_create
from grpc_server.names import parse_name
from grpc_server.tokens import Tokens
from grpc_server.views import parse_view
from grpc_server.watch import Watch
from grpc_server.watch_plan import parse_watch
from kling_flows.engine.cancel import cancelled
from kling_flows.engine.resolve import abandoned, adopted
from kling_flows.errors import InvalidRequest, ServerUnavailable, Violation
from kling_flows.ledger import Ledger, VideoTask
from kling_flows.upstream import Provider
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

SERVICE_NAME: Final = rpc.DESCRIPTOR.services_by_name["VideoTaskService"].full_name

DEFAULT_PAGE_SIZE: Final = 50
MOST_PAGE_SIZE: Final = 1_000

#: Bytes of tasks in one page; most clients refuse messages of more than 4 MiB.
PAGE_BYTES: Final = 3_000_000

MOST_REASON_CHARACTERS: Final = 255

#: What may be put into the path of a query; 18 digits today, base64-like in 2024 (fact sheet 4.1).
_UPSTREAM_TASK_ID: Final = re.compile(r"[!-~]{1,128}")

_Context = grpc.aio.ServicerContext[Any, Any]


class VideoTaskService:
    """The service for one tenant's tasks; it keeps nothing that another front on the same ledger would need."""

    def __init__(
        self, ledger: Ledger, hub: Hub, tokens: Tokens, admission: Admission, *, tenant: str, provider: Provider
    ) -> None:
        self._ledger = ledger
        self._hub = hub
        self._tokens = tokens
        self._admission = admission
        self._tenant = tenant
        self._provider = provider

    async def create(self, request: rpc.CreateVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Check, make durable, answer.

        Raises:
            InvalidRequest: with all violations.
            VideoTaskExists: the chosen id is taken.
            RequestIdReused: the ``request_id`` came with another body before.
            QueueFull: too many tasks wait.
            ServerUnavailable: the server drains.
            LedgerUnavailable: nothing can be made durable at the moment.
        """
        if self._hub.draining:
            raise ServerUnavailable("the server is draining and takes no new video tasks; try again in a moment")
        task, digest = read_create(request, self._provider, self._tenant)
        if not request.validate_only:
            await self._admission.admit()
            task = await self._ledger.create(task, request_id=request.request_id, request_digest=digest)
        return message_of(task, full=True)

    async def get(self, request: rpc.GetVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Answer one task.

        Raises:
            InvalidRequest: the name or the view is none.
            VideoTaskNotFound: there is no such task.
        """
        violations: list[Violation] = []
        full = parse_view(request.view, violations)
        task_id = _parse_own_name(request.name, violations)
        return message_of(await self._ledger.get(task_id, tenant=self._tenant), full=full)

    async def list(self, request: rpc.ListVideoTasksRequest, _context: _Context) -> rpc.ListVideoTasksResponse:
        """Answer a page of tasks, the newest first; it may be shorter than asked for, so that it fits in a message.

        Raises:
            InvalidRequest: with all violations.
            ResumeTokenInvalid: the page token is not of this list.
        """
        violations: list[Violation] = []
        full = parse_view(request.view, violations)
        if request.page_size < 0:
            violations.append(Violation("page_size", "OUT_OF_RANGE", "cannot be negative; 0 means 50"))
        selected = parse_filter(request.filter)
        if isinstance(selected, Violation):
            raise InvalidRequest([*violations, selected])
        if violations:
            raise InvalidRequest(violations)
        listed = _fingerprint(request)
        before_seq = self._tokens.open_page(request.page_token, listed) if request.page_token else None
        size = min(request.page_size or DEFAULT_PAGE_SIZE, MOST_PAGE_SIZE)
        # Taken before the tasks are read: what happens meanwhile is then seen twice rather than not at all.
        response = rpc.ListVideoTasksResponse(resume_token=self._tokens.resume(await self._ledger.head()))
        if selected.nothing:
            return response
        rows = await self._ledger.list_tasks(
            tenant=self._tenant,
            states=selected.states,
            label_values=selected.labels,
            before_seq=before_seq,
            limit=size + 1,
        )
        shown = _fill(response, rows[:size], full=full)
        if shown < len(rows):
            response.next_page_token = self._tokens.page(rows[shown - 1][0], listed)
        return response

    async def cancel(self, request: rpc.CancelVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Cancel a task, or answer it as it is if it is CANCELLED.

        Raises:
            InvalidRequest: the name is none, or the reason is too long.
            VideoTaskNotFound: there is no such task.
            VideoTaskFinal: it has ended in another way.
        """
        violations: list[Violation] = []
        if len(request.reason) > MOST_REASON_CHARACTERS:
            violations.append(Violation("reason", "TOO_LONG", f"at most {MOST_REASON_CHARACTERS} characters"))
        task_id = _parse_own_name(request.name, violations)
        # Whose task it is never changes, so that this need not be one transaction with the write.
        await self._ledger.get(task_id, tenant=self._tenant)
        task = await self._ledger.advance(task_id, lambda before: cancelled(before, request.reason))
        return message_of(task, full=True)

    async def resolve(self, request: rpc.ResolveVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Carry out what a person has decided of an UNRESOLVED task.

        Raises:
            InvalidRequest: the name is none, or nothing is decided.
            VideoTaskNotFound: there is no such task.
            VideoTaskNotUnresolved: there is nothing to decide.
        """
        violations: list[Violation] = []
        upstream_task_id = request.adopt_task_id
        if not upstream_task_id and not request.abandon:
            violations.append(Violation("decision", "REQUIRED", "set adopt_task_id, or abandon to true"))
        elif upstream_task_id and not _UPSTREAM_TASK_ID.fullmatch(upstream_task_id):
            violations.append(Violation("adopt_task_id", "MALFORMED", "must be the provider's own id of the task"))
        task_id = _parse_own_name(request.name, violations)
        await self._ledger.get(task_id, tenant=self._tenant)
        task = await self._ledger.advance(
            task_id, lambda before: adopted(before, upstream_task_id) if upstream_task_id else abandoned(before)
        )
        return message_of(task, full=True)

    async def watch(self, request: rpc.WatchVideoTasksRequest, context: _Context) -> None:
        """Stream tasks as they change; see :meth:`grpc_server.watch.Watch.run` for what is raised."""
        watch = Watch(
            parse_watch(request),
            hub=self._hub,
            ledger=self._ledger,
            tokens=self._tokens,
            tenant=self._tenant,
            write=context.write,
        )
        await watch.run()


def method_handlers(service: VideoTaskService) -> grpc.GenericRpcHandler:
    """The service as the server takes it.

    The generated registration would not do: a watch writes messages that are serialised already.
    """
    return grpc.method_handlers_generic_handler(
        SERVICE_NAME,
        {
            "CreateVideoTask": grpc.unary_unary_rpc_method_handler(
                service.create, rpc.CreateVideoTaskRequest.FromString, pb.VideoTask.SerializeToString
            ),
            "GetVideoTask": grpc.unary_unary_rpc_method_handler(
                service.get, rpc.GetVideoTaskRequest.FromString, pb.VideoTask.SerializeToString
            ),
            "ListVideoTasks": grpc.unary_unary_rpc_method_handler(
                service.list, rpc.ListVideoTasksRequest.FromString, rpc.ListVideoTasksResponse.SerializeToString
            ),
            "CancelVideoTask": grpc.unary_unary_rpc_method_handler(
                service.cancel, rpc.CancelVideoTaskRequest.FromString, pb.VideoTask.SerializeToString
            ),
            "ResolveVideoTask": grpc.unary_unary_rpc_method_handler(
                service.resolve, rpc.ResolveVideoTaskRequest.FromString, pb.VideoTask.SerializeToString
            ),
            "WatchVideoTasks": grpc.unary_stream_rpc_method_handler(
                service.watch, rpc.WatchVideoTasksRequest.FromString
            ),
        },
    )


def _parse_own_name(name: str, violations: list[Violation]) -> str:
    task_id = parse_name(name, "name")
    if isinstance(task_id, Violation):
        raise InvalidRequest([task_id, *violations])
    if violations:
        raise InvalidRequest(violations)
    return task_id


def _fingerprint(request: rpc.ListVideoTasksRequest) -> bytes:
    """Identifies the list that a page token is made for."""
    return hashlib.sha256(repr((request.page_size, request.filter, request.view)).encode()).digest()


def _fill(response: rpc.ListVideoTasksResponse, rows: Sequence[tuple[int, VideoTask]], *, full: bool) -> int:
    """Put as many tasks into the response as fit, at least one; answer how many."""
    size = 0
    for number, (_, task) in enumerate(rows):
        message = message_of(task, full=full)
        size += message.ByteSize()
        if number and size > PAGE_BYTES:
            return number
        response.video_tasks.append(message)
    return len(rows)
