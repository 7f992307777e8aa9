"""Many videos in one flow run: what a start takes along when video tasks queue up faster than flow runs start."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import structlog
from prefect import flow
from prefect.artifacts import acreate_table_artifact
from prefect.runtime import flow_run as runtime
from prefect.states import Completed, Failed

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.intake import new_video_task, request_digest
from kling_flows.engine.session import engine_session
from kling_flows.errors import KlingFlowsError, LeaseLost, RunnerDraining
from kling_flows.flows.names import batch_run_name
from kling_flows.flows.text_to_video import RESULT_STORAGE, attach, still_wanted
from kling_flows.ledger import FlowRunRecord, State, VideoTask
from kling_flows.settings import Settings
from kling_flows.tasks import flow_run_record
from kling_flows.upstream import TextToVideoRequest

log = structlog.get_logger(__name__)


def _run_name() -> str:
    parameters = runtime.get_parameters()
    ids = parameters.get("task_ids") or ()
    if not ids:
        return f"text-to-videos/{len(parameters.get('requests') or ())}"
    return batch_run_name(ids)


@flow(
    name="text-to-videos",
    flow_run_name=_run_name,
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Turns many prompts into archived videos in one run, and pays once for each.",
)
async def text_to_videos(
    requests: list[TextToVideoRequest] | None = None, task_ids: list[str] | None = None
) -> list[VideoTask]:
    """Generate and archive many videos.

    Args:
        requests: What to generate, as new video tasks.
        task_ids: Video tasks to carry on.

    Returns:
        The video tasks as they ended, requests first. The run is Completed if any of them succeeded.

    Raises:
        InvalidRequest: a request breaks a rule; nothing was sent.
        BudgetExceeded: a budget does not cover all of them; those before it are created, and a runner carries them.
    """
    async with engine_session() as engine:
        ids = [*await _create(engine, requests or ()), *(task_ids or ())]
        run = flow_run_record()
        await asyncio.gather(*(_carry(engine, task_id, run) for task_id in ids))
        tasks = [await engine.ledger.get(task_id) for task_id in ids]
    await _show(tasks)
    return _outcome(tasks)


async def _create(engine: Engine, requests: Sequence[TextToVideoRequest]) -> list[str]:
    if not requests:
        return []
    settings, account = Settings.load(), engine.client.account
    # Made of the run's own id, so that the same run, tried again, is the same videos and pays for none again.
    new = [
        new_video_task(
            request,
            account.provider,
            tenant=settings.tenant,
            task_id=f"vt-{runtime.get_id()}-{number}",
            account=account.name,
            dialect=account.dialect,
        )
        for number, request in enumerate(requests)
    ]
    for task in new:
        digest = request_digest(task.request, {}, task.id)
        await engine.ledger.create_or_get(task, digest, budgets=settings.budgets)
    return [task.id for task in new]


async def _carry(engine: Engine, task_id: str, run: FlowRunRecord | None) -> None:
    try:
        try:
            await _take_and_carry(engine, task_id, run)
        except LeaseLost:
            if not await still_wanted(engine, task_id):
                raise
            await _take_and_carry(engine, task_id, run)
    except (LeaseLost, RunnerDraining) as interrupted:
        log.info("interrupted", video_task=task_id, error=interrupted.message)
    except KlingFlowsError as error:
        log.warning("a step failed too often; the task is taken up again later", video_task=task_id, error=str(error))
    except Exception:
        # A bug in one task must not end the run under the others.
        log.exception("a task could not be carried on; it is taken up again later", video_task=task_id)


async def _take_and_carry(engine: Engine, task_id: str, run: FlowRunRecord | None) -> None:
    task = await engine.ledger.claim_one(task_id, engine.runner_id, account=engine.client.account.name)
    await attach(engine, task)
    await carry(engine, task_id, run)


async def _show(tasks: Sequence[VideoTask]) -> None:
    await acreate_table_artifact(
        table=[
            {
                "video task": task.id,
                "state": task.state.value,
                "prompt": task.request.prompt[:80],
                "video": task.artifacts[0].uri if task.artifacts else "",
                "error": task.error.message if task.error else "",
            }
            for task in tasks
        ],
        key="video-tasks",
        description="The video tasks of this run",
    )


def _outcome(tasks: Sequence[VideoTask]) -> Any:
    counts = Counter(task.state for task in tasks)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to do"
    if tasks and not counts[State.SUCCEEDED]:
        return Failed(message=summary)
    return Completed(message=summary, data=list(tasks))
