"""What tests say to a sandbox, over real HTTP."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import httpx

from kling_flows.sandbox import SandboxServer
from kling_flows.upstream.constants import SANDBOX_API_KEY, TEXT_TO_VIDEO_PATH

#: Nothing here is encrypted, and reading the machine's certificates for every client takes longer than most tests.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
#: Seconds that a condition may take to come true.
PATIENCE = 60.0


class Api:
    """A caller of one sandbox, on one of its surfaces."""

    def __init__(self, server: SandboxServer, prefix: str = "", key: str = SANDBOX_API_KEY) -> None:
        self.server = server
        self.path = prefix + TEXT_TO_VIDEO_PATH
        self.http = httpx.Client(
            base_url=server.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=PATIENCE,
            verify=NO_CERTIFICATES,
        )

    def post(self, body: Any) -> httpx.Response:
        # In ASCII, so that a test can send what UTF-8 cannot carry: half of a surrogate pair.
        return self.http.post(self.path, content=json.dumps(body), headers={"content-type": "application/json"})

    def create(self, **fields: Any) -> httpx.Response:
        return self.post({"model_name": "kling-v3", "prompt": "a cup on a table", **fields})

    def created(self, **fields: Any) -> str:
        response = self.create(**fields)
        assert response.status_code == 200, response.text
        return response.json()["data"]["task_id"]

    def order(self, model: str = "kling-3.0", **fields: Any) -> httpx.Response:
        """Create by the standard dialect."""
        return self.http.post(f"/text-to-video/{model}", json={"prompt": "a cup on a table", **fields})

    def ordered(self, model: str = "kling-3.0", **fields: Any) -> str:
        response = self.order(model, **fields)
        assert response.status_code == 200, response.text
        return response.json()["data"]["id"]

    def tasks(self, **query: str) -> httpx.Response:
        return self.http.get("/tasks", params=query)

    def cursor(self, **fields: Any) -> httpx.Response:
        return self.http.post("/tasks", json=fields)

    def get(self, key: str) -> httpx.Response:
        return self.http.get(f"{self.path}/{key}")

    def task(self, key: str) -> dict[str, Any]:
        return self.get(key).json()["data"]

    def list(self, **query: Any) -> httpx.Response:
        return self.http.get(self.path, params=query)

    def wait_for(self, key: str, status: str = "succeed") -> dict[str, Any]:
        return eventually(lambda: task if (task := self.task(key))["task_status"] == status else None)

    def finished(self, **fields: Any) -> dict[str, Any]:
        return self.wait_for(self.created(**fields))

    def video_url(self, **fields: Any) -> str:
        return self.finished(**fields)["task_result"]["videos"][0]["url"]


def fetch(url: str | httpx.URL, method: str = "GET", **arguments: Any) -> httpx.Response:
    """One request on a connection of its own, without a key."""
    return httpx.request(method, url, **({"verify": NO_CERTIFICATES, "timeout": PATIENCE} | arguments))


def eventually(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
    return found
