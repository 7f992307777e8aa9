"""A deferrable operator: it creates in the worker and hands the wait to the triggerer
(https://airflow.apache.org/docs/apache-airflow/3.3.2/authoring-and-scheduling/deferring.html).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from typing import Any

import httpx
from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent
from kling import POLL_SECONDS, AsyncKling, Kling


@cache
def client() -> AsyncKling:
    """All triggers run in one event loop."""
    return AsyncKling()


class VideoTrigger(BaseTrigger):
    def __init__(self, upstream_id: str) -> None:
        super().__init__()
        self.upstream_id = upstream_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "text_to_video.VideoTrigger", {"upstream_id": self.upstream_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            try:
                if (url := await client().url(self.upstream_id)) is not None:
                    yield TriggerEvent({"url": url})
                    return
            except httpx.HTTPError as error:
                self.log.warning("cannot ask for %s: %r", self.upstream_id, error)
            await asyncio.sleep(POLL_SECONDS)


class TextToVideo(BaseOperator):
    """Creates the video that the run's ``conf`` describes, waits for it, and returns its URL."""

    def execute(self, context: Any) -> None:
        # Again at any time: a task whose worker has died may be run again under the same try number.
        upstream_id = Kling().create(**context["dag_run"].conf, again=True)
        self.defer(trigger=VideoTrigger(upstream_id), method_name="execute_complete")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> str:
        return event["url"]
