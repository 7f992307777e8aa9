"""Three tasks per video, so that no worker is held while Kling works: create, look again after a countdown, fetch.

Retries are those of https://docs.celeryq.dev/en/stable/userguide/tasks.html#automatic-retry-for-known-exceptions. Plain
is Celery's default, which acknowledges a task when it begins. Careful acknowledges late and gets back what a killed
worker had (https://docs.celeryq.dev/en/stable/userguide/tasks.html#Task.acks_late) once Redis's visibility timeout is
over (https://docs.celeryq.dev/en/stable/getting-started/backends-and-brokers/redis.html#visibility-timeout).
"""

from __future__ import annotations

import os
from functools import cache

import httpx
from celery import Celery
from celery.signals import worker_ready
from kling import CAREFUL, POLL_SECONDS, Kling, report

app = Celery("tasks", broker=os.environ["REDIS_URL"])
app.conf.task_ignore_result = True
if CAREFUL:
    app.conf.task_acks_late = True
    app.conf.task_reject_on_worker_lost = True
    app.conf.worker_prefetch_multiplier = 1
    # Well above the longest countdown; with the default of an hour a killed worker's tasks wait for that long.
    app.conf.broker_transport_options = {"visibility_timeout": 45}

RETRIES = {"autoretry_for": (httpx.HTTPError,), "retry_backoff": True, "max_retries": 5}


@cache
def kling() -> Kling:
    # In the pool's process, not in the one that it is forked from.
    return Kling()


@app.task(bind=True, **RETRIES)
def create(self, job: str, prompt: str, seconds: int) -> None:
    again = self.request.retries > 0 or bool(self.request.delivery_info.get("redelivered"))
    task_id = kling().create(job, prompt, seconds, again=again)
    look.apply_async((job, task_id), countdown=POLL_SECONDS)


@app.task(**RETRIES)
def look(job: str, task_id: str) -> None:
    url = kling().url(task_id)
    if url is None:
        look.apply_async((job, task_id), countdown=POLL_SECONDS)
    elif url:
        fetch.delay(job, url)
    else:
        report(job, None)


@app.task(**RETRIES)
def fetch(job: str, url: str) -> None:
    report(job, kling().download(job, url))


@worker_ready.connect
def say_ready(**_: object) -> None:
    # Celery turns what is printed into lines of its log.
    os.write(1, b"READY\n")
