"""The three steps of a video task as Prefect tasks, for our flows and for anybody's."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State as PrefectState
from prefect.client.schemas.objects import TaskRun
from prefect.context import FlowRunContext
from prefect.utilities.urls import url_for

from kling_flows.engine import keep, wait
from kling_flows.engine.carry import begin
from kling_flows.engine.retries import RETRY_DELAYS, RETRY_JITTER, worth_repeating
from kling_flows.engine.session import current_engine
from kling_flows.ledger import FlowRunRecord, VideoTask


async def _worth_repeating(_task: object, _run: TaskRun, state: PrefectState[Any]) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, BaseException) and worth_repeating(error)


# A cached result would be a second memory of what was paid, and one that can be lost: the ledger is the only one.
_POLICY: dict[str, Any] = {
    "retries": len(RETRY_DELAYS),
    "retry_delay_seconds": list(RETRY_DELAYS),
    "retry_jitter_factor": RETRY_JITTER,
    "retry_condition_fn": _worth_repeating,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


def flow_run_record() -> FlowRunRecord | None:
    """The flow run that this code runs in, if any."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return None
    run = context.flow_run
    return FlowRunRecord(id=str(run.id), name=run.name, url=url_for(run) or "")


@task(name="submit", task_run_name="submit", **_POLICY)
async def submit_video(task_id: str) -> VideoTask:
    """Submit a video task at most once, or find out what became of one; see :func:`kling_flows.engine.carry.begin`."""
    return await begin(current_engine(), task_id, flow_run_record())


@task(name="wait", task_run_name="wait", **_POLICY)
async def wait_for_video(task_id: str) -> VideoTask:
    """Wait for the provider to end it; see :func:`kling_flows.engine.wait.wait`."""
    return await wait.wait(current_engine(), task_id)


@task(name="archive", task_run_name="archive", **_POLICY)
async def archive_video(task_id: str) -> VideoTask:
    """Copy the video into the archive; see :func:`kling_flows.engine.keep.archive`."""
    return await keep.archive(current_engine(), task_id)
