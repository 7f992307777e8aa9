"""The Prefect server of the tests, as its API shows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.stack import until


@dataclass(frozen=True)
class Prefect:
    url: str
    folder: Path

    def is_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=5).text == "true"
        except httpx.TransportError:
            return False

    def ask(self, path: str, **body: Any) -> Any:
        return httpx.post(f"{self.url}/{path}", json=body, timeout=20).raise_for_status().json()

    def artifacts(self, key: str) -> list[dict[str, Any]]:
        return self.ask("artifacts/filter", artifacts={"key": {"any_": [key]}})

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        return self.ask("flow_runs/filter", **wanted)

    def events(self, task_id: str) -> list[str]:
        """The names of the events of a video task, the oldest first."""
        wanted = {"resource": {"id": [f"kling-flows.video-task.{task_id}"]}, "order": "ASC"}
        return [event["event"] for event in self.ask("events/filter", filter=wanted, limit=50)["events"]]

    def until_event(self, task_id: str, state: str) -> list[str]:
        def told() -> list[str]:
            events = self.events(task_id)
            return events if f"kling-flows.video-task.{state}" in events else []

        return until(told, f"Prefect has heard that {task_id} is {state}")
