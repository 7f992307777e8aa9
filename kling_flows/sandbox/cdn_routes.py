"""Serves result files the way a CDN does: signed URLs, ranges, entity tags."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from kling_flows.sandbox.clips import clip_for
from kling_flows.sandbox.delivery import Counted, gateway_page
from kling_flows.sandbox.faults import Operation
from kling_flows.sandbox.misbehaviour import misbehave
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.signing import VIDEOS_PATH
from kling_flows.sandbox.videos import WATERMARK_SUFFIX


def cdn_routes(service: SandboxService) -> list[BaseRoute]:
    """The route of the result files."""

    async def download(request: Request) -> Response:
        is_get = request.method == "GET"
        if is_get:
            service.count_call(Operation.DOWNLOAD)
        name: str = request.path_params["name"]
        query = request.query_params
        if not service.signer.valid(name, query.get("expires", ""), query.get("sig", "")):
            return gateway_page(403, "Forbidden")
        task = service.tasks.find_video(name.removesuffix(WATERMARK_SUFFIX))
        if task is None:
            return gateway_page(404, "Not Found")
        order = task.order

        async def answer() -> Response:
            clip = await service.videos.open(clip_for(order, watermark=name.endswith(WATERMARK_SUFFIX)))
            file = FileResponse(clip.path, media_type="video/mp4", stat_result=clip.stat, headers={"etag": clip.etag})
            return Counted(file, service.count_bytes)

        rule = service.faults.for_call(Operation.DOWNLOAD, order.searchable) if is_get else None
        return await answer() if rule is None else await misbehave(rule, answer, _failure)

    return [Route(VIDEOS_PATH + "/{name}.mp4", download, methods=["GET"])]


def _failure(status: int, headers: dict[str, str] | None, message: str | None = None, code: str = "") -> Response:
    response = gateway_page(status, message or "Error")
    response.headers.update(headers or {})
    return response
