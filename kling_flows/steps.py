"""The steps of a video task for code that is not our flows: anybody's tasks, and blocks.

Each goes through the ledger and the engine, opens them if nobody has, and follows whoever else carries the task on: a
runner on the same ledger takes over what is left between two steps, and that is well.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Protocol

from prefect.context import FlowRunContext
from prefect.runtime import flow_run as flow_runtime
from prefect.runtime import task_run as task_runtime
from prefect.utilities.urls import url_for

from kling_flows.engine import keep, wait
from kling_flows.engine.carry import begin, carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import ending
from kling_flows.engine.identity import MADE_PREFIX, ledger_task_id, new_task_id, public_task_id
from kling_flows.engine.intake import new_video_task, request_digest
from kling_flows.engine.session import engine_session, holder, open_engine
from kling_flows.errors import LeaseLost, VideoTaskExists, VideoTaskNotFound, VideoTaskUnresolved
from kling_flows.ledger import Creation, FlowRunRecord, Ledger, State, VideoTask
from kling_flows.settings import Settings
from kling_flows.shown.events import told_events
from kling_flows.upstream import TextToVideoRequest

#: Longest time between two looks at a task that somebody else carries, in seconds.
_LOOK_SECONDS: Final = 5.0


class SettingsBlock(Protocol):
    """A block that stands for some of the settings."""

    def settings(self) -> Mapping[str, Any]:
        """Settings by name; they win over ``KLING_FLOWS_*``."""
        ...


@asynccontextmanager
async def video_session(*blocks: SettingsBlock | None) -> AsyncGenerator[Engine]:
    """The engine of this context, or a new one; Prefect is told of the state changes meanwhile.

    Args:
        blocks: Stand for settings; with any of them the engine is always a new one. Without, ``KLING_FLOWS_*`` apply.

    Raises:
        ConfigurationError: a new engine is needed and the settings do not allow it.
    """
    given: dict[str, Any] = {}
    for block in blocks:
        given.update(block.settings() if block is not None else {})
    known = open_engine()
    if known is not None and not given:
        async with engine_session(known):
            yield known
        return
    # Not as flags: what a block leaves open is open, whatever the environment says.
    settings = Settings.load().model_copy(update=given)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine.open(settings))
        if settings.prefect_events:
            await stack.enter_async_context(told_events(engine.ledger))
        await stack.enter_async_context(engine_session(engine))
        yield engine


def flow_run_record() -> FlowRunRecord | None:
    """The flow run that this code runs in, if any."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    run = context.flow_run
    return FlowRunRecord(id=str(run.id), name=run.name, url=url_for(run) or "")


def id_for(request: TextToVideoRequest) -> str:
    """The id of the video task that this place in this run asks for; a fresh one outside of runs.

    A run that is tried again asks for the same videos. So does one that asks for the same thing twice: whoever wants
    two videos of one request names them.
    """
    run = flow_runtime.get_id() or task_runtime.get_id()
    if run is None:
        return new_task_id()
    digest = hashlib.sha256(f"{run}\0{request.model_dump_json()}".encode()).hexdigest()
    return f"{MADE_PREFIX}{digest[:32]}"


async def known_id(engine: Engine, task_id: str) -> str:
    """What the ledger calls a task that is named by its id there, or as its tenant names it, as a new one is."""
    ids = _possible_ids(task_id, [engine.settings.tenant])
    if len(ids) == 1:
        return task_id
    task = await _known_task(engine.ledger, ids, flow_runtime.get_id())
    return ids[-1] if task is None else task.id


async def known_task(ledger: Ledger, named: str, tenants: Iterable[str], flow_run_id: str) -> VideoTask | None:
    """The task of a flow run that is named by its id in the ledger, or as one of the tenants names it; None: no such.

    A name may be both, of different tenants (decision 0012): then the one that the flow run carries is meant, else the
    one whose id it is.
    """
    return await _known_task(ledger, _possible_ids(named, tenants), flow_run_id)


def _possible_ids(named: str, tenants: Iterable[str]) -> list[str]:
    if public_task_id(named) != named:
        return [named]
    return list(dict.fromkeys((named, *(ledger_task_id(tenant, named) for tenant in tenants))))


async def _known_task(ledger: Ledger, ids: Iterable[str], flow_run_id: str | None) -> VideoTask | None:
    found: list[VideoTask] = []
    for task_id in ids:
        try:
            found.append(await ledger.get(task_id))
        except VideoTaskNotFound:
            continue
    carried = (task for task in found if task.flow_run is not None and task.flow_run.id == flow_run_id)
    return next(carried, found[0] if found else None)


async def check_request(engine: Engine, task_id: str, request: TextToVideoRequest) -> None:
    """Make sure that a task that exists is one of this request.

    Raises:
        VideoTaskExists: it is not.
    """
    try:
        task = await engine.ledger.get(task_id)
    except VideoTaskNotFound:
        return
    if task.request != request:
        raise VideoTaskExists(
            f"videoTasks/{task_id} exists with another request; name another task_id, or leave it out",
            metadata={"video_task": task_id},
        )


async def take(engine: Engine, task_id: str, request: TextToVideoRequest | None) -> VideoTask:
    """Hold the task that the ledger knows by that id; creates it if there is none.

    Raises:
        InvalidRequest: the request breaks a rule; nothing was stored.
        BudgetExceeded: a budget does not cover it; nothing was stored.
        VideoTaskNotFound: there is none, and no request to make one of.
        LeaseLost: somebody else carries it.
    """
    sharing = holder.get(None)
    if sharing is not None:
        sharing.take(task_id)
    try:
        return await _claim(engine, task_id)
    except VideoTaskNotFound:
        if request is None:
            raise
    try:
        return await _create(engine, task_id, request)
    except VideoTaskExists:
        # Somebody else was quicker.
        await check_request(engine, task_id, request)
        return await _claim(engine, task_id)


async def _claim(engine: Engine, task_id: str) -> VideoTask:
    return await engine.ledger.claim_one(task_id, engine.runner_id, account=engine.client.account.name)


async def _create(engine: Engine, task_id: str, request: TextToVideoRequest) -> VideoTask:
    new = creation_of(engine, request, task_id)
    return await engine.ledger.create(
        new.task, request_digest=new.request_digest, runner_id=engine.runner_id, budgets=new.budgets
    )


def creation_of(
    engine: Engine,
    request: TextToVideoRequest,
    task_id: str,
    *,
    labels: Mapping[str, str] | None = None,
    priority: int = 0,
) -> Creation:
    """A new task for the engine's account and tenant, as the ledger takes it in.

    Args:
        engine: Whose account pays.
        request: What to make.
        task_id: Its id in the ledger.
        labels: The caller's own.
        priority: 0 to 9; higher goes first.

    Raises:
        InvalidRequest: with all violations.
    """
    settings, account = engine.settings, engine.client.account
    public = public_task_id(task_id)
    # What stands for nothing that this tenant can choose is refused as it is.
    chosen = public if ledger_task_id(settings.tenant, public) == task_id else task_id
    task = new_video_task(
        request,
        account.provider,
        tenant=settings.tenant,
        task_id=chosen,
        labels=labels,
        account=account.name,
        dialect=account.dialect,
        priority=priority,
    ).model_copy(update={"id": task_id})
    digest = request_digest(request, labels or {}, task_id, priority=priority)
    return Creation(task, request_digest=digest, budgets=settings.budgets)


async def submit(engine: Engine, request: TextToVideoRequest | None, task_id: str) -> VideoTask:
    """Create the task if need be, and submit it once.

    Raises:
        VideoTaskExists: there is one of that id, of another request.
        KlingFlowsError: as :func:`take` and :func:`kling_flows.engine.carry.begin`.
    """
    task_id = await known_id(engine, task_id)
    if request is not None:
        await check_request(engine, task_id, request)

    async def step() -> VideoTask:
        task = await take(engine, task_id, request)
        return await begin(engine, task_id, flow_run_record(), task)

    return checked(await _held(engine, task_id, step, _is_sent))


async def wait_until_made(engine: Engine, task_id: str) -> VideoTask:
    """Follow the task until the provider has ended it.

    Raises:
        VideoTaskFailed: it ended without a video.
        KlingFlowsError: as :func:`kling_flows.engine.wait.wait`.
    """
    task_id = await known_id(engine, task_id)

    async def step() -> VideoTask:
        task = await take(engine, task_id, None)
        return await wait.wait(engine, task_id, task)

    return checked(await _held(engine, task_id, step, _is_made))


async def archive(engine: Engine, task_id: str) -> VideoTask:
    """Copy the video into the archive.

    Raises:
        VideoTaskFailed: it ended without a video.
        KlingFlowsError: as :func:`kling_flows.engine.keep.archive`.
    """
    task_id = await known_id(engine, task_id)

    async def step() -> VideoTask:
        task = await take(engine, task_id, None)
        return await keep.archive(engine, task_id, task)

    return checked(await _held(engine, task_id, step, lambda task: not task.active))


async def carry_to_end(engine: Engine, task_id: str) -> VideoTask:
    """All steps, or follow whoever else takes them; returns the task as it then is.

    Raises:
        KlingFlowsError: a step failed more often than it is repeated; the task stays where it is.
        RunnerDraining: this engine stops.
    """
    task_id = await known_id(engine, task_id)

    async def step() -> VideoTask:
        task = await take(engine, task_id, None)
        return await carry(engine, task_id, flow_run_record(), task)

    return await _held(engine, task_id, step, lambda task: not task.active)


async def _held(
    engine: Engine, task_id: str, step: Callable[[], Awaitable[VideoTask]], done: Callable[[VideoTask], bool]
) -> VideoTask:
    """Do a step as soon as nobody else carries the task, unless they have done it by then."""
    while True:
        changes = engine.ledger.changes()
        try:
            return await step()
        except LeaseLost:
            if engine.lease.lost.is_set():
                raise
            task = await engine.ledger.get(task_id)
            if done(task) or not task.active:
                return task
        await changes.wait(_LOOK_SECONDS)


def outcome_error(task: VideoTask) -> Exception | None:
    """Why a task that nobody carries on any more has no video; None if it has one, or is still carried."""
    if task.state is State.UNRESOLVED:
        return VideoTaskUnresolved(task.error.message if task.error else f"videoTasks/{task.id} is UNRESOLVED")
    return None if task.active or task.artifacts else ending(task)


def checked(task: VideoTask) -> VideoTask:
    """The task, unless it has ended without a video.

    Raises:
        VideoTaskFailed, VideoTaskUnresolved: it has.
    """
    error = outcome_error(task)
    if error is not None:
        raise error
    return task


def _is_sent(task: VideoTask) -> bool:
    return task.state not in (State.QUEUED, State.SUBMITTING)


def _is_made(task: VideoTask) -> bool:
    return _is_sent(task) and task.state not in (State.SUBMITTED, State.PROCESSING) and not task.video_pending
