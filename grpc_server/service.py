"""The RPCs of VideoTaskService. Errors are raised; the interceptor makes statuses of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import grpc

from grpc_server.admission import Admission
from grpc_server.auth.identity import caller
from grpc_server.batch import create_batch
from grpc_server.convert import message_of
from grpc_server.deliveries import CallbackDeliveries
from grpc_server.download import Downloads
from grpc_server.generate import generate
from grpc_server.hub import Hub
from grpc_server.intake import Terms, read_create
from grpc_server.limits import TenantLimits
from grpc_server.listing import list_page
from grpc_server.masks import parse_reading
from grpc_server.money import list_budgets, list_models, quote_video_task
from grpc_server.names import parse_name
from grpc_server.tokens import Tokens
from grpc_server.watch import Watch
from grpc_server.watch_plan import parse_watch
from kling_flows.engine.cancel import RETENTION, cancelled
from kling_flows.engine.resolve import abandoned, adopted
from kling_flows.errors import InvalidRequest, ServerUnavailable, Violation
from kling_flows.ledger import LateVideo, Ledger, VideoTask
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

SERVICE_NAME: Final = rpc.DESCRIPTOR.services_by_name["VideoTaskService"].full_name

MOST_REASON_CHARACTERS: Final = 255

#: What may be put into the path of a query; 18 digits today, base64-like in 2024 (fact sheet 4.1).
_UPSTREAM_TASK_ID: Final = re.compile(r"[!-~]{1,128}")

_LATE_VIDEOS: Final[Mapping[pb.LateVideo.ValueType, LateVideo]] = {
    pb.LATE_VIDEO_UNSPECIFIED: LateVideo.DISCARD,
    pb.KEEP_VIDEO: LateVideo.KEEP_VIDEO,
    pb.DISCARD: LateVideo.DISCARD,
}

_Context = grpc.aio.ServicerContext[Any, Any]


class VideoTaskService:
    """The service for the caller's own tasks; it keeps nothing that another front on the same ledger would need."""

    def __init__(
        self,
        ledger: Ledger,
        hub: Hub,
        tokens: Tokens,
        admission: Admission,
        limits: TenantLimits,
        *,
        terms: Terms,
        downloads: Downloads,
        result_retention: float = RETENTION,
    ) -> None:
        self._ledger = ledger
        self._hub = hub
        self._tokens = tokens
        self.deliveries = CallbackDeliveries(ledger, tokens)
        self._admission = admission
        self._limits = limits
        self._terms = terms
        self._downloads = downloads
        self._result_retention = result_retention

    async def create(self, request: rpc.CreateVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Check, make durable, answer.

        Raises:
            InvalidRequest: with all violations.
            VideoTaskExists: the chosen id is taken.
            RequestIdReused: the ``request_id`` came with another body before.
            BudgetExceeded: a budget does not cover it.
            QueueFull: too many tasks wait.
            RateLimited: the tenant creates too fast.
            ServerUnavailable: the server drains.
            LedgerUnavailable: nothing can be made durable at the moment.
        """
        return message_of(await self._create(request), full=True)

    async def _create(self, request: rpc.CreateVideoTaskRequest) -> VideoTask:
        self._check_draining()
        task, digest = read_create(request, self._terms, caller().tenant)
        if not request.validate_only:
            self._limits.take_creates(task.tenant)
            await self._admission.admit()
            task = await self._ledger.create(
                task, request_id=request.request_id, request_digest=digest, budgets=self._terms.budgets
            )
        return task

    async def batch_create(
        self, request: rpc.BatchCreateVideoTasksRequest, _context: _Context
    ) -> rpc.BatchCreateVideoTasksResponse:
        """Create many tasks; see :func:`grpc_server.batch.create_batch` for what is raised.

        Raises:
            RateLimited: the tenant creates too fast.
            ServerUnavailable: the server drains.
        """
        self._check_draining()
        tenant = caller().tenant
        return await create_batch(
            request,
            read=lambda each: read_create(each, self._terms, tenant),
            count=lambda number: self._limits.take_creates(tenant, number),
            admission=self._admission,
            ledger=self._ledger,
            budgets=self._terms.budgets,
        )

    async def generate(self, request: rpc.GenerateVideoRequest, context: _Context) -> None:
        """Create a task and stream its events; see :func:`grpc_server.generate.generate` for what is raised."""
        await generate(
            request, self._create, hub=self._hub, ledger=self._ledger, tokens=self._tokens, write=context.write
        )

    async def download(self, request: rpc.DownloadVideoRequest, context: _Context) -> None:
        """Stream a file of the archive; see :meth:`grpc_server.download.Downloads.run` for what is raised."""
        await self._downloads.run(request, caller().tenant, context.write)

    def _check_draining(self) -> None:
        if self._hub.draining:
            raise ServerUnavailable("the server is draining and takes no new video tasks; try again in a moment")

    async def get(self, request: rpc.GetVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Answer one task.

        Raises:
            InvalidRequest: with all violations.
            VideoTaskNotFound: there is no such task.
        """
        violations: list[Violation] = []
        reading = parse_reading(request.view, request.read_mask, violations)
        task_id = _parse_own_name(request.name, violations)
        return reading.show(await self._ledger.get(task_id, tenant=caller().tenant))

    async def list(self, request: rpc.ListVideoTasksRequest, _context: _Context) -> rpc.ListVideoTasksResponse:
        """Answer a page of tasks; see :func:`grpc_server.listing.list_page` for what is raised."""
        return await list_page(request, tenant=caller().tenant, ledger=self._ledger, tokens=self._tokens)

    async def cancel(self, request: rpc.CancelVideoTaskRequest, _context: _Context) -> pb.VideoTask:
        """Cancel a task, or answer it as it is if it is CANCELLED and its video is not wanted after all.

        Raises:
            InvalidRequest: the name is none, or the reason is too long.
            VideoTaskNotFound: there is no such task.
            VideoTaskFinal: it has ended in another way.
        """
        violations: list[Violation] = []
        if len(request.reason) > MOST_REASON_CHARACTERS:
            violations.append(Violation("reason", "TOO_LONG", f"at most {MOST_REASON_CHARACTERS} characters"))
        on_cancel = _LATE_VIDEOS.get(request.on_cancel)
        if on_cancel is None:
            violations.append(Violation("on_cancel", "UNKNOWN_VALUE", "must be KEEP_VIDEO or DISCARD, or not set"))
            on_cancel = LateVideo.DISCARD
        task_id = _parse_own_name(request.name, violations)
        # Whose task it is never changes, so that this need not be one transaction with the write.
        await self._ledger.get(task_id, tenant=caller().tenant)
        task = await self._ledger.advance(
            task_id, lambda before: cancelled(before, request.reason, on_cancel, retention=self._result_retention)
        )
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
        await self._ledger.get(task_id, tenant=caller().tenant)
        task = await self._ledger.advance(
            task_id, lambda before: adopted(before, upstream_task_id) if upstream_task_id else abandoned(before)
        )
        return message_of(task, full=True)

    async def watch(self, request: rpc.WatchVideoTasksRequest, context: _Context) -> None:
        """Stream tasks as they change; see :meth:`grpc_server.watch.Watch.run` for what is raised."""
        tenant = caller().tenant
        watch = Watch(
            parse_watch(request, tenant),
            hub=self._hub,
            ledger=self._ledger,
            tokens=self._tokens,
            tenant=tenant,
            write=context.write,
        )
        await watch.run()

    async def list_models(self, request: rpc.ListModelsRequest, _context: _Context) -> rpc.ListModelsResponse:
        """See :func:`grpc_server.money.list_models`."""
        return list_models(request, self._terms)

    async def quote(self, request: rpc.QuoteVideoTaskRequest, _context: _Context) -> rpc.Quote:
        """See :func:`grpc_server.money.quote_video_task`."""
        return quote_video_task(request, self._terms)

    async def list_budgets(self, _request: rpc.ListBudgetsRequest, _context: _Context) -> rpc.ListBudgetsResponse:
        """See :func:`grpc_server.money.list_budgets`."""
        return await list_budgets(self._terms, self._ledger)


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
            "BatchCreateVideoTasks": grpc.unary_unary_rpc_method_handler(
                service.batch_create,
                rpc.BatchCreateVideoTasksRequest.FromString,
                rpc.BatchCreateVideoTasksResponse.SerializeToString,
            ),
            "GenerateVideo": grpc.unary_stream_rpc_method_handler(
                service.generate, rpc.GenerateVideoRequest.FromString
            ),
            "DownloadVideo": grpc.unary_stream_rpc_method_handler(
                service.download, rpc.DownloadVideoRequest.FromString, rpc.DownloadVideoResponse.SerializeToString
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
            "ListCallbackDeliveries": grpc.unary_unary_rpc_method_handler(
                service.deliveries.list,
                rpc.ListCallbackDeliveriesRequest.FromString,
                rpc.ListCallbackDeliveriesResponse.SerializeToString,
            ),
            "RetryCallbackDelivery": grpc.unary_unary_rpc_method_handler(
                service.deliveries.retry,
                rpc.RetryCallbackDeliveryRequest.FromString,
                rpc.CallbackDelivery.SerializeToString,
            ),
            "ListModels": grpc.unary_unary_rpc_method_handler(
                service.list_models, rpc.ListModelsRequest.FromString, rpc.ListModelsResponse.SerializeToString
            ),
            "QuoteVideoTask": grpc.unary_unary_rpc_method_handler(
                service.quote, rpc.QuoteVideoTaskRequest.FromString, rpc.Quote.SerializeToString
            ),
            "ListBudgets": grpc.unary_unary_rpc_method_handler(
                service.list_budgets, rpc.ListBudgetsRequest.FromString, rpc.ListBudgetsResponse.SerializeToString
            ),
            "WatchVideoTasks": grpc.unary_stream_rpc_method_handler(
                service.watch, rpc.WatchVideoTasksRequest.FromString
            ),
        },
    )


def _parse_own_name(name: str, violations: list[Violation]) -> str:
    task_id = parse_name(name, "name", caller().tenant)
    if isinstance(task_id, Violation):
        raise InvalidRequest([task_id, *violations])
    if violations:
        raise InvalidRequest(violations)
    return task_id
