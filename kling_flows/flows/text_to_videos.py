"""Many videos in one flow run: a list or a table of them, or what has come to wait while flow runs start."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any

import structlog
from prefect import flow
from prefect.runtime import flow_run as runtime
from prefect.states import Completed, Crashed, Failed
from pydantic import Field

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.errors import KlingFlowsError, LeaseLost, RunnerDraining
from kling_flows.flows.batches import Again, create_missing
from kling_flows.flows.cancelling import cancel_videos
from kling_flows.flows.files import read_file, write_file
from kling_flows.flows.form import ArchiveName, CredentialsName, named_session
from kling_flows.flows.names import batch_run_name
from kling_flows.flows.rows import Row, check_result_name, read_records, read_rows, write_results
from kling_flows.flows.text_to_video import RESULT_STORAGE, attach, still_wanted
from kling_flows.ledger import FlowRunRecord, State, VideoTask
from kling_flows.shown.artifacts import Progress, show_tasks, shown_progress
from kling_flows.shown.tags import show_tags
from kling_flows.shown.words import artifact_key
from kling_flows.steps import carry_to_end, flow_run_record, known_id, take
from kling_flows.upstream import TextToVideoRequest

log = structlog.get_logger(__name__)


def _run_name() -> str:
    parameters = runtime.get_parameters()
    ids = parameters.get("task_ids") or ()
    if ids:
        return batch_run_name(ids)
    if parameters.get("source"):
        return f"text-to-videos/{str(parameters['source']).partition('?')[0].rpartition('/')[2]}"
    return f"text-to-videos/{len(parameters.get('requests') or ())}"


@flow(
    name="text-to-videos",
    flow_run_name=_run_name,
    persist_result=False,
    result_storage=RESULT_STORAGE,
    description="Turns many prompts into archived videos in one run, and pays once for each.",
    on_cancellation=[cancel_videos],
)
async def text_to_videos(
    requests: Annotated[
        list[TextToVideoRequest] | None, Field(title="Requests", description="What to generate, one video each.")
    ] = None,
    task_ids: Annotated[
        list[str] | None, Field(title="Video tasks", description="Video tasks that exist, to be carried on.")
    ] = None,
    source: Annotated[
        str | None,
        Field(
            title="Table",
            description="A .csv, .jsonl or .parquet file, one video a row; columns are named as the fields of a "
            "request, and video_task_id, priority and label.<key>. https://, s3://, gs://, az:// or a path.",
            examples=["s3://ads/november.csv"],
        ),
    ] = None,
    defaults: Annotated[
        TextToVideoRequest | None, Field(title="Defaults", description="What holds where a row says nothing.")
    ] = None,
    again: Annotated[
        Again,
        Field(
            title="Make again",
            description="Rows of the table that an earlier run has ended without a video: nothing, failed, or ended "
            "(also cancelled and expired). What may have been billed is never made again.",
        ),
    ] = Again.FAILED,
    most_at_once: Annotated[
        int, Field(title="Most at once", description="Videos that are carried at a time.", ge=1, le=1_000)
    ] = 50,
    result_file: Annotated[
        str | None,
        Field(
            title="Result file",
            description="Where a table of all videos goes at the end: .csv, .jsonl or .parquet; s3://, gs://, az:// "
            "or a path.",
            examples=["s3://ads/november.results.csv"],
        ),
    ] = None,
    credentials_block: CredentialsName = None,
    archive_block: ArchiveName = None,
) -> list[VideoTask]:
    """Generate and archive many videos. The same table, given again, makes what is missing and nothing twice.

    Args:
        requests: What to generate, as new video tasks.
        task_ids: Video tasks to carry on.
        source: A table of what to generate; see :mod:`kling_flows.flows.rows`.
        defaults: What holds where a row of the table says nothing.
        again: Which rows are made again that ended without a video.
        most_at_once: How many of the new ones are carried at a time.
        result_file: Where to write what has become of all of them.
        credentials_block: Whose account pays; by default the one that ``KLING_FLOWS_*`` names.
        archive_block: Where the videos go; by default where ``KLING_FLOWS_ARCHIVE`` says.

    Returns:
        The video tasks as they ended: requests, the table's rows, task ids. The run is Completed if any succeeded.

    Raises:
        InvalidRequest: rows or requests break rules; nothing was sent and nothing was stored.
        ConfigurationError: the table cannot be read, or the results could not be written.
        BudgetExceeded: a budget does not cover all of them; nothing was sent and nothing was stored.
    """
    if result_file is not None:
        check_result_name(result_file)
    rows = [] if source is None else read_rows(read_records(source, await read_file("source", source)), defaults)
    async with named_session(credentials_block, archive_block) as engine:
        new = await create_missing(engine, [*_rows_of(requests or ()), *rows], again)
        given = [await known_id(engine, task_id) for task_id in task_ids or ()]
        ids = [*new, *given]
        async with shown_progress(engine.settings, artifact_key("progress", str(runtime.get_id()))) as progress:
            count = _Count(progress, len(set(ids)))
            await _carry_all(engine, new, given, most_at_once, count)
        tasks = await engine.ledger.get_each(ids)
        await show_tags(tasks)
        await show_tasks(engine.settings, tasks)
    if result_file is not None:
        await write_file("result_file", result_file, write_results(result_file, enumerate(tasks, 1)))
    return _outcome(tasks, interrupted=count.interrupted)


def _rows_of(requests: Sequence[TextToVideoRequest]) -> list[Row]:
    # Made of the run's own id, so that the same run, tried again, is the same videos and pays for none again.
    return [
        Row(number, f"vt-{runtime.get_id()}-{number - 1}", request, repeatable=False)
        for number, request in enumerate(requests, 1)
    ]


class _Count:
    """How many of the tasks are done, for the progress artifact."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        #: Whether this run was to stop, or has lost a task to another runner.
        self.interrupted = False
        self._show()

    def add(self, *, interrupted: bool) -> None:
        """One more is done, or goes on elsewhere."""
        self._done += 1
        self.interrupted |= interrupted
        self._show()

    def _show(self) -> None:
        if self._progress is not None and self._total:
            self._progress.tell(self._done / self._total * 100, f"{self._done} of {self._total} video tasks are done")


async def _carry_all(
    engine: Engine, new: Sequence[str], given: Sequence[str], most_at_once: int, count: _Count
) -> None:
    places, run = asyncio.Semaphore(most_at_once), flow_run_record()

    async def carry_new(task_id: str) -> None:
        async with places:
            count.add(interrupted=await _guarded(task_id, carry_to_end(engine, task_id)))

    async def carry_given(task_id: str) -> None:
        # Of a runner, which has claimed them: what it loses goes on elsewhere.
        count.add(interrupted=await _carry(engine, task_id, run))

    rows, others = dict.fromkeys(new), dict.fromkeys(given)
    await asyncio.gather(*map(carry_new, rows), *(carry_given(task_id) for task_id in others if task_id not in rows))


async def _carry(engine: Engine, task_id: str, run: FlowRunRecord | None) -> bool:
    async def once() -> None:
        task = await take(engine, task_id, None)
        await attach(engine, task)
        await carry(engine, task_id, run, task)

    async def carry_on() -> None:
        try:
            await once()
        except LeaseLost:
            if not await still_wanted(engine, task_id):
                raise
            await once()

    return await _guarded(task_id, carry_on())


async def _guarded(task_id: str, work: Coroutine[Any, Any, object]) -> bool:
    """Do the work whatever becomes of it; returns whether the task goes on elsewhere."""
    try:
        await work
    except (LeaseLost, RunnerDraining) as interrupted:
        log.info("interrupted", video_task=task_id, error=interrupted.message)
        return True
    except KlingFlowsError as error:
        log.warning("a step failed too often; the task is taken up again later", video_task=task_id, error=str(error))
    except Exception:
        # A bug in one task must not end the run under the others.
        log.exception("a task could not be carried on; it is taken up again later", video_task=task_id)
    return False


def _outcome(tasks: Sequence[VideoTask], *, interrupted: bool) -> Any:
    counts = Counter(task.state for task in tasks)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to do"
    if interrupted and any(not task.state.final for task in tasks):
        return Crashed(message=summary)
    if tasks and not counts[State.SUCCEEDED]:
        return Failed(message=summary)
    return Completed(message=summary, data=list(tasks))
