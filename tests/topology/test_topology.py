"""Two fronts and two runners over PostgreSQL, Redis and one Prefect server: a runner is lost, and nothing else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from benchmarks.watching import LABEL, Watcher
from kling_flows.cli.client import Patience, VideoTaskClient
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest, ListVideoTasksRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.faults.audit import audit
from tests.ledger.postgres_server import PASSWORD
from tests.stack import PATIENCE, until

from .installation import Installation, installation

pytestmark = pytest.mark.xdist_group("topology")

_WATCHED = "topology"

_CREATES_AT_A_TIME = 16

#: On a busy machine a create may be refused for a while; it is repeated under its request id.
_PATIENCE = Patience(unavailable=PATIENCE)


async def test_a_runner_is_lost_and_nothing_else(tmp_path: Path) -> None:
    async with installation(tmp_path, seconds="1:2", at_a_time=12) as running:
        await _lose_a_runner_half_way(running, 60)


@pytest.mark.full
@pytest.mark.timeout(1_800)
async def test_a_runner_of_a_busy_installation_is_lost_and_nothing_else(tmp_path: Path) -> None:
    async with installation(tmp_path, seconds="2:3", at_a_time=200) as running:
        await _lose_a_runner_half_way(running, 2_000)
        still_open = {"flow_runs": {"state": {"type": {"not_any_": ["COMPLETED", "CRASHED"]}}}}
        until(lambda: running.prefect.ask("flow_runs/count", **still_open) == 0, "every flow run is closed")


async def _lose_a_runner_half_way(running: Installation, count: int) -> None:
    prompts = [f"order {uuid.uuid4().hex}" for _ in range(count)]
    async with AsyncExitStack() as stack:
        addresses = [front.address for front in running.fronts]
        clients = [
            await stack.enter_async_context(VideoTaskClient(address, patience=_PATIENCE)) for address in addresses
        ]
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address)) for address in addresses]
        watchers = [
            await stack.enter_async_context(Watcher.watching(VideoTaskServiceStub(channel), _WATCHED))
            for channel in channels
        ]
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(_order(client, prompts[number :: len(clients)]))
            await _half_have_ended(watchers[0], count)
            assert await running.lose_a_runner() > 0
        for watcher in watchers:
            assert await watcher.all_final(count, PATIENCE), f"{watcher.final} of {count} have ended"
        tasks = await _list(clients[0])
    assert audit(prompts, tasks, running.provider.charges()).findings == ()
    revisions = {task.name: task.revision for task in tasks}
    for watcher in watchers:
        assert {name: story.revision for name, story in watcher.stories.items()} == revisions
        assert [name for name, story in watcher.stories.items() if story.gaps] == []
        assert watcher.events == sum(revisions.values())
    await asyncio.to_thread(_prefect_has_seen_it, running, tasks)
    assert PASSWORD not in running.logs()


async def _order(client: VideoTaskClient, prompts: Sequence[str]) -> None:
    slots = asyncio.Semaphore(_CREATES_AT_A_TIME)

    async def order(prompt: str) -> None:
        task = VideoTask(text_to_video=TextToVideo(prompt=prompt), labels={LABEL: _WATCHED})
        async with slots:
            await client.create(CreateVideoTaskRequest(video_task=task, request_id=uuid.uuid4().hex))

    await asyncio.gather(*map(order, prompts))


async def _half_have_ended(watcher: Watcher, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while watcher.final < count // 2:
            await asyncio.sleep(0.05)


async def _list(client: VideoTaskClient) -> list[VideoTask]:
    request, tasks = ListVideoTasksRequest(page_size=1_000), list[VideoTask]()
    while True:
        page = await client.list(request)
        tasks.extend(page.video_tasks)
        request.page_token = page.next_page_token
        if not request.page_token:
            return tasks


def _prefect_has_seen_it(running: Installation, tasks: Sequence[VideoTask]) -> None:
    """The flow runs that the tasks name are there, and events have come through Redis."""
    carried_by = {task.flow_run.id for task in tasks}
    known = {"flow_runs": {"id": {"any_": sorted(carried_by)}}}
    assert running.prefect.ask("flow_runs/count", **known) == len(carried_by)
    landed = {"event": {"name": ["kling-flows.video-task.succeeded"]}}
    until(lambda: running.prefect.ask("events/filter", filter=landed)["events"], "Prefect has heard of a video")
