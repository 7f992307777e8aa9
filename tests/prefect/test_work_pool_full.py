"""Dispatch by a work pool, where it takes longer: many runs in one worker, and a stock worker."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import psutil
import pytest

from kling_flows.v1 import text_to_video_pb2, video_task_pb2, video_task_service_pb2, video_task_service_pb2_grpc
from tests.stack import Sandbox, serve, serve_settings, until

from .rig import Prefect
from .test_work_pool import Pool, deploy_to

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("prefect-plugin")]

MANY = 200


@pytest.fixture(scope="module")
def pool(
    request: pytest.FixtureRequest, prefect: Prefect, provider: Sandbox, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pool]:
    folder, kind = tmp_path_factory.mktemp("work-pool-full"), str(request.param)
    name = f"full-{kind}"
    deployment = deploy_to(prefect, name, "--type", kind)
    settings = serve_settings(
        folder,
        provider.url,
        KLING_FLOWS_DISPATCH="work-pool",
        KLING_FLOWS_PREFECT_API_URL=prefect.url,
        KLING_FLOWS_PREFECT_ARTIFACTS="off",
    )
    with serve(folder, settings) as server:
        yield Pool(prefect, provider, server, folder, deployment, name, kind)


@pytest.mark.parametrize("pool", ["process"], indirect=True)
def test_a_stock_worker_makes_the_video(pool: Pool) -> None:
    prompt = "Made by a stock worker"
    name = pool.create("by-stock", prompt)
    with pool.worker(PREFECT_WORKER_QUERY_SECONDS="1"):
        task = pool.wait(name, "SUCCEEDED", "FAILED")
        run = pool.until_run("by-stock", "COMPLETED")
    assert task["state"] == "SUCCEEDED", pool.log()
    assert task["flow_run"]["id"] == run["id"]
    assert len(pool.runs("by-stock")) == pool.charges(prompt) == 1


@pytest.mark.parametrize("pool", ["kling-flows"], indirect=True)
def test_hundreds_of_runs_wait_at_once_in_one_worker(pool: Pool) -> None:
    prompts = [f"[sandbox:stuck] one of many {number}" for number in range(MANY)]
    with grpc.insecure_channel(pool.server.address) as channel, pool.worker() as worker:
        front = video_task_service_pb2_grpc.VideoTaskServiceStub(channel)
        for prompt in prompts:
            spec = video_task_pb2.VideoTask(text_to_video=text_to_video_pb2.TextToVideo(prompt=prompt))
            front.CreateVideoTask(video_task_service_pb2.CreateVideoTaskRequest(video_task=spec), timeout=20)

        def waiting() -> int:
            page = front.ListVideoTasks(video_task_service_pb2.ListVideoTasksRequest(page_size=1_000), timeout=20)
            states = [video_task_pb2.VideoTask.State.Name(task.state) for task in page.video_tasks]
            return sum(state in ("SUBMITTED", "PROCESSING") for state in states)

        until(lambda: waiting() == MANY, "all of them wait at the provider", 900)
        process = psutil.Process(worker.pid)
        assert process.children() == []
        assert process.num_threads() < 60
    charged = [charge["prompt"] for charge in pool.provider.charges()]
    assert [charged.count(prompt) for prompt in prompts] == [1] * MANY
