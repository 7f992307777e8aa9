"""The calls that the Python peers of this folder make, as the seeds show them; each peer decides what it retries.

With ``VARIANT=careful`` a create carries the job's id as ``external_task_id``, and after an unknown outcome it asks for
that id before it creates again.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import httpx

VIDEOS = "/v1/videos/text2video"
POLL_SECONDS = float(os.environ["POLL_SECONDS"])
CAREFUL = os.environ["VARIANT"] == "careful"

#: Kling's code for a value that it does not take, such as an id that it has already.
_REFUSED = 1201
_CAREFUL_TRIES = 5

_OPTIONS = {
    "base_url": os.environ["KLING_URL"],
    "headers": {"Authorization": f"Bearer {os.environ['KLING_KEY']}"},
    "timeout": 10,
}


def report(job: str, path: Path | None) -> None:
    """Write the result of a job; ``path`` is None if it failed."""
    line = json.dumps({"job": job, "ok": path is not None, "at": time.time(), "file": path and str(path)})
    file = os.open(os.environ["RESULTS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(file, line.encode() + b"\n")
    finally:
        os.close(file)


def path_of(job: str) -> Path:
    return Path(os.environ["DOWNLOADS"]) / f"{job}.mp4"


def order(job: str, prompt: str, seconds: int) -> dict[str, str]:
    body = {"model_name": "kling-v2-6", "prompt": prompt, "duration": str(seconds), "mode": "std"}
    return body | {"external_task_id": job} if CAREFUL else body


def is_refused(response: httpx.Response) -> bool:
    """Whether it is a 1201: the id exists already, or is not found."""
    return response.status_code == 400 and response.json()["code"] == _REFUSED


def url_of(task: dict) -> str | None:
    """The video's URL; None while it is made; empty if there will be none."""
    if task["task_status"] == "succeed":
        return task["task_result"]["videos"][0]["url"]
    return "" if task["task_status"] == "failed" else None


class Kling:
    """The calls, for threads."""

    def __init__(self) -> None:
        self._http = httpx.Client(**_OPTIONS)

    def create(self, job: str, prompt: str, seconds: int, *, again: bool = False) -> str:
        """Create a task; ``again`` says that it may have been created before."""
        if CAREFUL and again and (found := self.find(job)):
            return found
        response = self._http.post(VIDEOS, json=order(job, prompt, seconds))
        if CAREFUL and is_refused(response) and (found := self.find(job)):
            return found
        return response.raise_for_status().json()["data"]["task_id"]

    def find(self, job: str) -> str | None:
        response = self._http.get(f"{VIDEOS}/{job}")
        return None if is_refused(response) else response.raise_for_status().json()["data"]["task_id"]

    def url(self, task_id: str) -> str | None:
        return url_of(self._http.get(f"{VIDEOS}/{task_id}").raise_for_status().json()["data"])

    def download(self, job: str, url: str) -> Path:
        with self._http.stream("GET", url) as response, path_of(job).open("wb") as file:
            for piece in response.raise_for_status().iter_bytes():
                file.write(piece)
        return path_of(job)


class AsyncKling:
    """The calls, for an event loop; at most 100 at a time, which is what httpx keeps connections for."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(**_OPTIONS)
        # A call that waits inside of httpx for a connection would run into its timeout.
        self._calls = asyncio.Semaphore(100)

    async def create(self, job: str, prompt: str, seconds: int, *, again: bool = False) -> str:
        """Create a task; ``again`` says that it may have been created before."""
        if CAREFUL and again and (found := await self.find(job)):
            return found
        async with self._calls:
            response = await self._http.post(VIDEOS, json=order(job, prompt, seconds))
        if CAREFUL and is_refused(response) and (found := await self.find(job)):
            return found
        return response.raise_for_status().json()["data"]["task_id"]

    async def create_carefully(self, job: str, prompt: str, seconds: int, *, again: bool = False) -> str:
        """Create a task; after an unknown outcome, ask for it before creating it again."""
        for attempt in range(_CAREFUL_TRIES):
            try:
                return await self.create(job, prompt, seconds, again=again or attempt > 0)
            except httpx.TransportError:
                if attempt + 1 == _CAREFUL_TRIES:
                    raise
                await asyncio.sleep(POLL_SECONDS)
        raise AssertionError

    async def find(self, job: str) -> str | None:
        async with self._calls:
            response = await self._http.get(f"{VIDEOS}/{job}")
        return None if is_refused(response) else response.raise_for_status().json()["data"]["task_id"]

    async def url(self, task_id: str) -> str | None:
        async with self._calls:
            response = await self._http.get(f"{VIDEOS}/{task_id}")
        return url_of(response.raise_for_status().json()["data"])

    async def download(self, job: str, url: str) -> Path:
        async with self._calls, self._http.stream("GET", url) as response:
            with path_of(job).open("wb") as file:
                async for piece in response.raise_for_status().aiter_bytes():
                    file.write(piece)
        return path_of(job)
