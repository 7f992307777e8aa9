"""One run per video, asked for by API; its ``conf`` is the job."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import dag, get_current_context, task
from kling import Kling, report
from text_to_video import TextToVideo


@task
def download(url: str) -> None:
    job = get_current_context()["dag_run"].conf["job"]
    report(job, Kling().download(job, url) if url else None)


def has_failed(context: dict) -> None:
    """Of the DAG, once no retry is left
    (https://airflow.apache.org/docs/apache-airflow/3.3.2/administration-and-deployment/logging-monitoring/callbacks.html).
    """
    report(context["run_id"], None)


@dag(
    schedule=None,
    # The default would let 16 videos be on their way at once.
    max_active_runs=20_000,
    on_failure_callback=has_failed,
    # https://airflow.apache.org/docs/apache-airflow/3.3.2/core-concepts/tasks.html; by default a retry comes 5 minutes
    # later.
    default_args={"retries": 3, "retry_delay": timedelta(seconds=10)},
)
def video() -> None:
    download(TextToVideo(task_id="text_to_video").output)


video()
