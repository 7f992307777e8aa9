"""What is sent piece by piece: the events of a watch, and videos."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog
from google.protobuf.duration_pb2 import Duration
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Send

from grpc_server.console.documents import document, task_name
from grpc_server.console.search import mentions
from grpc_server.service import VideoTaskService
from kling_flows.errors import InvalidRequest, ServerUnavailable, VideoNotArchived, Violation
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

log = structlog.get_logger(__name__)

#: Seconds of silence before a sign of life.
_HEARTBEAT_SECONDS: Final = 15

#: Seconds after which a stream ends and the browser goes on where it stood, as connections of gRPC do: who has lost
#: its access is then refused.
STREAM_SECONDS: Final = 30 * 60.0

#: Milliseconds after which a browser comes back.
_RETRY_MILLISECONDS: Final = 1_000

#: The service's unary methods look at no context.
NO_CONTEXT: Final[Any] = None

_VIDEO: Final = re.compile(r"video/[A-Za-z0-9.+-]{1,64}")
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


class Streams:
    """The streaming half of the console.

    Args:
        service: What gRPC is served by.
    """

    def __init__(self, service: VideoTaskService) -> None:
        self._service = service

    async def events(self, request: Request, receive: Receive, send: Send) -> None:
        """``GET /events``: a watch as server-sent events, each with the resume token as its id.

        Query: ``filter``, ``text`` (only tasks that mention it), ``name`` (only this one), ``resume_token`` (where to
        go on; the header Last-Event-ID wins).
        """
        query = request.query_params
        text = query.get("text", "").strip()
        watch = rpc.WatchVideoTasksRequest(
            names=query.getlist("name"),
            filter=query.get("filter", ""),
            resume_token=request.headers.get("last-event-id") or query.get("resume_token", ""),
            heartbeat_interval=Duration(seconds=_HEARTBEAT_SECONDS),
        )
        body = _Body(send, 200, {"content-type": "text/event-stream", "cache-control": "no-store"})

        async def write(encoded: bytes) -> None:
            message = rpc.WatchVideoTasksResponse.FromString(encoded)
            if not body.started:
                await body.write(f"retry: {_RETRY_MILLISECONDS}\n\n".encode())
            tasks = [document(task) for task in message.video_tasks if mentions(task, text)]
            data = json.dumps({"video_tasks": tasks, "synced": message.synced}, separators=(",", ":"))
            await body.write(f"event: tasks\nid: {message.resume_token}\ndata: {data}\n\n".encode())

        try:
            async with asyncio.timeout(STREAM_SECONDS):
                await until_gone(receive, self._service.watch(watch, _context(write)))
        except TimeoutError:
            pass
        except ServerUnavailable:
            # The browser comes back with the last id, to the next front.
            if not body.started:
                raise
        await body.end()

    async def video(self, request: Request, receive: Receive, send: Send) -> None:
        """``GET /tasks/{id}/video``: a file of the archive, or the range of it that is asked for.

        Query: ``kind`` (VIDEO, WATERMARKED_VIDEO), ``download`` (any: to be saved, not shown).
        """
        artifact, name = await self._artifact(request)
        size, etag = artifact.size_bytes, f'"{artifact.sha256.hex()}"'
        headers = {"accept-ranges": "bytes", "etag": etag, "cache-control": "private, no-cache"}
        if request.headers.get("if-none-match") == etag:
            await Response(status_code=304, headers=headers)(request.scope, receive, send)
            return
        if request.headers.get("if-range", etag) != etag:
            first, beyond, partial = 0, size, False
        else:
            try:
                first, beyond, partial = parse_range(request.headers.get("range", ""), size)
            except ValueError:
                headers["content-range"] = f"bytes */{size}"
                await Response(status_code=416, headers=headers)(request.scope, receive, send)
                return
        # What is not a video must not be shown as a page of ours.
        is_video = _VIDEO.fullmatch(artifact.media_type)
        headers["content-type"] = artifact.media_type if is_video else "application/octet-stream"
        headers["content-length"] = str(beyond - first)
        if partial:
            headers["content-range"] = f"bytes {first}-{beyond - 1}/{size}"
        if "download" in request.query_params:
            headers["content-disposition"] = f'attachment; filename="{name}.mp4"'
        body = _Body(send, 206 if partial else 200, headers)
        if request.method == "HEAD" or first == beyond:
            await body.end()
            return

        async def write(piece: rpc.DownloadVideoResponse) -> None:
            await body.write(piece.data[: beyond - piece.offset])
            if piece.offset + len(piece.data) >= beyond:
                raise _EnoughError

        download = rpc.DownloadVideoRequest(name=task_name(request), kind=artifact.kind, offset=first)
        try:
            async with asyncio.timeout(STREAM_SECONDS):
                await until_gone(receive, self._service.download(download, _context(write)))
        except _EnoughError:
            await body.end()
        except TimeoutError:
            # A player that was paused for so long asks for the rest when it goes on.
            log.debug("a video was not taken in time", seconds=STREAM_SECONDS)

    async def _artifact(self, request: Request) -> tuple[pb.Artifact, str]:
        """The facts of the file that is asked for, and the task's id."""
        word = request.query_params.get("kind", "VIDEO")
        if word not in pb.Artifact.Kind.keys():  # noqa: SIM118 - not a mapping
            raise InvalidRequest([Violation("kind", "WRONG_WORD", "use VIDEO or WATERMARKED_VIDEO")])
        get = rpc.GetVideoTaskRequest(name=task_name(request), view=pb.BASIC)
        task = await self._service.get(get, NO_CONTEXT)
        for artifact in task.artifacts:
            if artifact.kind == pb.Artifact.Kind.Value(word):
                return artifact, request.path_params["id"]
        raise VideoNotArchived(f"{task.name} has no {word} in the archive (yet)", metadata={"kind": word})


class _EnoughError(Exception):
    """All that was asked for has been sent."""


class _Body:
    """A response whose head is sent with its first piece, so that until then an error can be the response."""

    def __init__(self, send: Send, status: int, headers: Mapping[str, str]) -> None:
        self._send = send
        self._status = status
        self._headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self.started = False

    async def write(self, data: bytes) -> None:
        await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._start()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": self._status, "headers": self._headers})


def parse_range(header: str, size: int) -> tuple[int, int, bool]:
    """First byte, the byte behind the last, and whether it is a part; several ranges, or none, are the whole file.

    Raises:
        ValueError: it lies behind the end.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return 0, size, False
    if match[1] == "":
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
    if first > last:
        if match[1] and match[2] and int(match[2]) < int(match[1]):
            return 0, size, False
        raise ValueError(f"{header} lies behind the end")
    return first, last + 1, True


async def until_gone(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work``, at most until the browser goes away."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait((working, leaving))
    if not working.cancelled():
        working.result()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Context:
    """As much of an RPC's context as the service uses."""

    def __init__(self, write: Callable[[Any], Awaitable[None]]) -> None:
        self.write = write


def _context(write: Callable[[Any], Awaitable[None]]) -> Any:
    return _Context(write)
