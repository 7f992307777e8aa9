"""One flow per video, with a task for each thing that can fail (https://docs.prefect.io/v3/concepts/flows,
https://docs.prefect.io/v3/how-to-guides/workflows/retries), and a hook for when it has failed
(https://docs.prefect.io/v3/how-to-guides/workflows/state-change-hooks).
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from kling import POLL_SECONDS, Kling, report
from prefect import Flow, State, flow, runtime, task
from prefect.client.schemas.objects import FlowRun

RETRIES = {"retries": 3, "retry_delay_seconds": 10}


@cache
def kling() -> Kling:
    # In each run's own process: serve() pickles the flow for it, with the globals that it uses, and no client can be.
    return Kling()


@task(**RETRIES)
def create(job: str, prompt: str, seconds: int) -> str:
    return kling().create(job, prompt, seconds, again=runtime.task_run.run_count > 1)


@task(**RETRIES)
def wait(task_id: str) -> str:
    while (url := kling().url(task_id)) is None:
        time.sleep(POLL_SECONDS)
    return url


@task(**RETRIES)
def download(job: str, url: str) -> Path:
    return kling().download(job, url)


def has_failed(flow: Flow, flow_run: FlowRun, state: State) -> None:
    report(flow_run.parameters["job"], None)


@flow(on_failure=[has_failed])
def video(job: str, prompt: str, seconds: int) -> None:
    url = wait(create(job, prompt, seconds))
    report(job, download(job, url) if url else None)
