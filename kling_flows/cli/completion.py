"""What the shell offers for an argument that is half written. Whatever goes wrong, it offers nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import typer

#: Seconds that the server gets: somebody waits at the prompt.
_SECONDS: Final = 1.5
_MOST: Final = 100


def complete_model(incomplete: str) -> list[str]:
    """Names of the models that can be used."""
    from kling_flows.upstream.capabilities import ModelStatus, capability_map

    known = capability_map().model
    return [
        name for name, model in known.items() if name.startswith(incomplete) and model.status is not ModelStatus.RETIRED
    ]


def complete_task(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Ids of the newest video tasks, each with what it is about."""
    from grpc.aio import AioRpcError

    from kling_flows.errors import KlingFlowsError

    with suppress(KlingFlowsError, AioRpcError, TimeoutError):
        return [(name, words) for name, words in asyncio.run(_newest(_given(ctx))) if name.startswith(incomplete)]
    return []


async def _newest(given: dict[str, Any]) -> list[tuple[str, str]]:
    from kling_flows.cli.client import Patience
    from kling_flows.cli.connect import connect
    from kling_flows.cli.describe import state_name
    from kling_flows.cli.options import Shared
    from kling_flows.cli.output import Output, printable
    from kling_flows.cli.request import short_id
    from kling_flows.v1.video_task_service_pb2 import ListVideoTasksRequest

    shared = Shared({**given, "quiet": True})
    async with (
        asyncio.timeout(_SECONDS),
        connect(shared, Output(shared), patience=Patience(0.0, 0.0, 0.0)) as client,
    ):
        page = await client.list(ListVideoTasksRequest(page_size=_MOST))
    return [
        (short_id(task.name), printable(f"{state_name(task.state)} {task.text_to_video.prompt[:40]}"))
        for task in page.video_tasks
    ]


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The options so far that say which server; the nearest to the command's end first."""
    found: dict[str, Any] = {}
    for params in _chain(ctx):
        for name in ("server", "config"):
            if params.get(name) is not None:
                found.setdefault(name, params[name])
    return found


def _chain(ctx: Any) -> Iterator[dict[str, Any]]:
    while ctx is not None:
        yield ctx.params
        ctx = ctx.parent
