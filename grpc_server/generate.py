"""GenerateVideo: a create and the watch of what it made, in one stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from grpc_server.filtering import TaskFilter
from grpc_server.hub import Hub
from grpc_server.tokens import Tokens
from grpc_server.views import parse_view
from grpc_server.watch import Watch, Write
from grpc_server.watch_plan import WatchPlan, parse_heartbeat
from kling_flows.errors import InvalidRequest, KlingFlowsError, Violation
from kling_flows.ledger import Ledger, VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest, GenerateVideoRequest

_CREATE = "create"

Create = Callable[[CreateVideoTaskRequest], Awaitable[VideoTask]]


async def generate(
    request: GenerateVideoRequest, create: Create, *, hub: Hub, ledger: Ledger, tokens: Tokens, write: Write
) -> None:
    """Create the task and deliver its events until the final one.

    The watch begins where the log was before the create, so that a new task's first event is the first message. A task
    that an earlier request had made is shown as it is.

    Raises:
        KlingFlowsError: those of ``create``, with the fields as they are in ``request``, and those of `Watch.run`; once
            there is a task, ``video_task`` in the metadata names it.
    """
    violations: list[Violation] = []
    full = parse_view(request.view, violations)
    heartbeat = parse_heartbeat(request, violations)
    if request.create.validate_only:
        violations.append(
            Violation(
                f"{_CREATE}.validate_only", "CONTRADICTION", "there would be nothing to watch; CreateVideoTask has it"
            )
        )
    if violations:
        raise InvalidRequest(violations)
    since = hub.head
    try:
        task = await create(request.create)
    except InvalidRequest as error:
        raise InvalidRequest([Violation(f"{_CREATE}.{v.field}", v.rule, v.message) for v in error.violations]) from None
    plan = WatchPlan((task.id,), TaskFilter(), "", full, heartbeat, until_final=True)
    watch = Watch(plan, hub=hub, ledger=ledger, tokens=tokens, tenant=task.tenant, write=write, since=since)
    try:
        await watch.run()
    except KlingFlowsError as error:
        # Whoever has lost the stream before its first message knows by this what to go on with.
        error.metadata.setdefault("video_task", task.id)
        raise
