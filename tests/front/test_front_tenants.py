"""That no tenant learns of another's tasks: every RPC is tried with all that another tenant's caller could know."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from grpc_server.tokens import ResumePoint, Tokens
from grpc_server.watch_plan import parse_watch
from kling_flows.engine.identity import LEDGER_TASK_ID, ledger_task_id, public_task_id
from kling_flows.engine.webhooks import body_of
from kling_flows.ledger import ErrorRecord, TaskPlace
from kling_flows.ledger.schema import video_tasks
from kling_flows.settings import Budget, Settings
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .access import ADS, NEWS, bearer, create
from .rig import PATIENCE, Refusal, Rig, Served, create_request, refused

METHODS = rpc.DESCRIPTOR.services_by_name["VideoTaskService"].methods

CALLED_BACK = spec_pb.TextToVideo(prompt="a cat", callback_url="https://example.org/hook")


@dataclass
class Known:
    """What a caller knows of another tenant's tasks.

    Args:
        task_id: A chosen id.
        made: The name of a task whose id the server made.
        request_id: What a create was sent under.
        label: The value of its label ``team``.
        delivery: The name of a callback delivery.
        page_token: Of a list of tasks.
        delivery_page_token: Of a list of deliveries.
        snapshot_token: Of a watch that broke off in its snapshot.
    """

    task_id: str
    made: str
    request_id: str
    label: str
    delivery: str
    page_token: str
    delivery_page_token: str
    snapshot_token: str

    @property
    def name(self) -> str:
        return f"videoTasks/{self.task_id}"


async def _theirs(served: Served) -> Known:
    """All that there is to know of the tasks of ADS."""
    for number in range(2):
        fields = {"request_id": f"sent-{number}", "video_task_id": f"film-{number}"}
        task = await create(served, ADS, spec=CALLED_BACK, labels={"team": "x"}, **fields)
    made = (await create(served, ADS)).name
    request = rpc.ListVideoTasksRequest(page_size=1)
    listed = await served.stub.ListVideoTasks(request, **bearer(ADS))
    request = rpc.ListCallbackDeliveriesRequest(page_size=1)
    deliveries = await served.stub.ListCallbackDeliveries(request, **bearer(ADS))
    watched = parse_watch(rpc.WatchVideoTasksRequest(names=[task.name]), "ads").watched
    place = TaskPlace(task.create_time.ToNanoseconds() / 1e9 + 1, 2)
    tokens = Tokens(served.ledger.token_key, served.ledger.ledger_id)
    return Known(
        task_id="film-1",
        made=made,
        request_id="sent-1",
        label="x",
        delivery=deliveries.callback_deliveries[0].name,
        page_token=listed.next_page_token,
        delivery_page_token=deliveries.next_page_token,
        snapshot_token=tokens.snapshot(ResumePoint(0, place), watched),
    )


#: What a caller can ask with what it knows; a watch ends by itself where it finds nothing.
REQUESTS: Mapping[str, Callable[[Known], list[Message]]] = {
    "CreateVideoTask": lambda known: [
        create_request(validate_only=True, video_task_id=known.task_id),
        create_request("a dog", request_id=known.request_id),
        create_request(video_task_id=known.task_id, labels={"team": known.label}),
        create_request("another", video_task_id=known.task_id),
        create_request(video_task_id=known.made.removeprefix("videoTasks/")),
    ],
    "BatchCreateVideoTasks": lambda known: [
        rpc.BatchCreateVideoTasksRequest(
            requests=[
                create_request(video_task_id=known.task_id),
                create_request("a dog", request_id=known.request_id),
                create_request(video_task_id=known.made.removeprefix("videoTasks/")),
            ],
            all_or_nothing=together,
        )
        for together in (True, False, False)
    ],
    "GenerateVideo": lambda known: [
        rpc.GenerateVideoRequest(create=create_request(video_task_id=known.task_id)),
        rpc.GenerateVideoRequest(create=create_request("a dog", request_id=known.request_id)),
        rpc.GenerateVideoRequest(create=create_request("another", video_task_id=known.task_id)),
    ],
    "GetVideoTask": lambda known: [rpc.GetVideoTaskRequest(name=name) for name in (known.name, known.made)],
    "CancelVideoTask": lambda known: [rpc.CancelVideoTaskRequest(name=name) for name in (known.name, known.made)],
    "ResolveVideoTask": lambda known: [
        rpc.ResolveVideoTaskRequest(name=known.name, abandon=True),
        rpc.ResolveVideoTaskRequest(name=known.made, adopt_task_id="812"),
    ],
    "DownloadVideo": lambda known: [rpc.DownloadVideoRequest(name=name) for name in (known.name, known.made)],
    "ListVideoTasks": lambda known: [
        rpc.ListVideoTasksRequest(page_size=1, page_token=known.page_token),
        rpc.ListVideoTasksRequest(filter=f'labels.team = "{known.label}"'),
        rpc.ListVideoTasksRequest(filter="tenant = ads"),
        rpc.ListVideoTasksRequest(),
    ],
    "WatchVideoTasks": lambda known: [
        rpc.WatchVideoTasksRequest(names=[known.name]),
        rpc.WatchVideoTasksRequest(names=[known.made], until_final=True),
        rpc.WatchVideoTasksRequest(names=[known.name], resume_token=known.snapshot_token),
        rpc.WatchVideoTasksRequest(resume_token=known.snapshot_token),
        rpc.WatchVideoTasksRequest(filter=f'labels.team = "{known.label}"'),
        rpc.WatchVideoTasksRequest(filter="tenant = ads"),
        rpc.WatchVideoTasksRequest(),
    ],
    "ListCallbackDeliveries": lambda known: [
        rpc.ListCallbackDeliveriesRequest(video_task=known.name),
        rpc.ListCallbackDeliveriesRequest(video_task=known.made),
        rpc.ListCallbackDeliveriesRequest(page_size=1, page_token=known.delivery_page_token),
        rpc.ListCallbackDeliveriesRequest(),
    ],
    "RetryCallbackDelivery": lambda known: [rpc.RetryCallbackDeliveryRequest(name=known.delivery)],
    "ListBudgets": lambda known: [rpc.ListBudgetsRequest()],
    # These say nothing of anybody's tasks, and must go on like that.
    "ListModels": lambda known: [rpc.ListModelsRequest()],
    "QuoteVideoTask": lambda known: [rpc.QuoteVideoTaskRequest(video_task=pb.VideoTask(text_to_video=CALLED_BACK))],
}


@pytest.mark.parametrize("method", [method.name for method in METHODS])
async def test_every_rpc_answers_as_if_there_were_no_other_tenant(
    tmp_path: Path, access_file: Path, method: str
) -> None:
    async with AsyncExitStack() as stack:
        crowded, empty = [await _serve(tmp_path / name, stack, access_file) for name in ("crowded", "empty")]
        known = await _theirs(crowded)
        before = await _everything(crowded)
        for request in REQUESTS[method](known):
            assert await _answer(crowded, method, request) == await _answer(empty, method, request)
        assert await _everything(crowded) == before


async def _serve(folder: Path, stack: AsyncExitStack, access_file: Path) -> Served:
    folder.mkdir()
    budgets = tuple(Budget(tenant=tenant, period="total", units=Decimal(10_000)) for tenant in ("ads", "news"))
    return await Rig(folder, stack).serve(access_file=access_file, budgets=budgets)


async def _everything(served: Served) -> list[pb.VideoTask]:
    listed = await served.stub.ListVideoTasks(rpc.ListVideoTasksRequest(), **bearer(ADS))
    assert len(listed.video_tasks) == 3
    return list(listed.video_tasks)


async def _answer(served: Served, method: str, request: Message) -> Any:
    """The first message or the refusal, without what differs between any two answers."""
    call = getattr(served.stub, method)(request, **bearer(NEWS))
    try:
        async with asyncio.timeout(PATIENCE):
            message = await (call.read() if hasattr(call, "read") else call)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    call.cancel()
    return _steady(MessageToDict(message))


def _steady(value: Any) -> Any:
    if isinstance(value, list):
        return [_steady(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return {key: _steady(each) for key, each in pairs if not key.endswith(("Time", "Token"))}
    return "made" if str(value).startswith("videoTasks/vt-") else value


async def test_a_chosen_id_is_its_tenants_own_and_every_name_that_is_shown_is_the_chosen_one(guarded: Served) -> None:
    mine, other = [await create(guarded, token, video_task_id="film", spec=CALLED_BACK) for token in (ADS, NEWS)]
    assert mine.name == other.name == "videoTasks/film"
    refusal = await refused(create(guarded, ADS, "a dog", video_task_id="film"))
    assert (refusal.reason, refusal.info.metadata["video_task"]) == ("VIDEO_TASK_EXISTS", "film")
    assert refusal.message.startswith("videoTasks/film exists")
    assert refusal.resource is not None
    assert refusal.resource.resource_name == "videoTasks/film"
    cancel = rpc.CancelVideoTaskRequest(name=mine.name)
    cancelled = await guarded.stub.CancelVideoTask(cancel, **bearer(ADS))
    assert (cancelled.name, cancelled.state) == (mine.name, pb.VideoTask.CANCELLED)
    untouched = await guarded.stub.GetVideoTask(rpc.GetVideoTaskRequest(name=mine.name), **bearer(NEWS))
    assert untouched.state == pb.VideoTask.QUEUED
    listed = await guarded.stub.ListCallbackDeliveries(rpc.ListCallbackDeliveriesRequest(), **bearer(NEWS))
    assert [delivery.video_task for delivery in listed.callback_deliveries] == ["videoTasks/film"]
    bodies = [json.loads(body_of(each)) for each in await guarded.ledger.list_deliveries("ads", limit=10)]
    assert {body["data"]["name"] for body in bodies} == {"videoTasks/film"}


async def test_an_error_that_the_ledger_keeps_names_the_task_as_its_tenant_does(guarded: Served) -> None:
    await create(guarded, ADS, video_task_id="film")
    task_id = ledger_task_id("ads", "film")
    kept = ErrorRecord(
        reason="CONFIGURATION_INVALID",
        grpc_code="FAILED_PRECONDITION",
        message=f"videoTasks/{task_id} was submitted with another account",
        metadata={"video_task": task_id},
    )
    await guarded.ledger.advance(task_id, lambda task: task.model_copy(update={"error": kept}))
    task = await guarded.stub.GetVideoTask(rpc.GetVideoTaskRequest(name="videoTasks/film"), **bearer(ADS))
    assert task.error.message == "videoTasks/film was submitted with another account"
    assert task_id not in str(task)


def test_ids_that_the_server_makes_and_the_default_tenants_stand_in_the_ledger_as_they_are() -> None:
    assert ledger_task_id("ads", "vt-1") == "vt-1"
    assert ledger_task_id(Settings.model_fields["tenant"].default, "film") == "film"
    marked = ledger_task_id("ads", "a" * 48)
    assert LEDGER_TASK_ID.fullmatch(marked)
    assert len(marked) <= video_tasks.c.id.type.length
    assert public_task_id(marked) == "a" * 48
    assert marked != ledger_task_id("news", "a" * 48)


async def test_ids_of_the_servers_kind_cannot_be_chosen(served: Served) -> None:
    refusal = await refused(served.create(video_task_id="vt-mine"))
    assert (refusal.reason, refusal.fields) == ("INVALID_REQUEST", ["video_task_id"])
    assert "vt-" in refusal.violations[0].description


async def test_lists_and_watches_hold_the_callers_own_tasks_only(guarded: Served) -> None:
    theirs = await create(guarded, ADS, labels={"team": "x"})
    mine = await create(guarded, NEWS, labels={"team": "x"})
    listed = await guarded.stub.ListVideoTasks(rpc.ListVideoTasksRequest(filter="labels.team = x"), **bearer(NEWS))
    assert [task.name for task in listed.video_tasks] == [mine.name]
    watch = guarded.stub.WatchVideoTasks(rpc.WatchVideoTasksRequest(filter="labels.team = x"), **bearer(NEWS))
    late = await create(guarded, ADS, labels={"team": "x"})
    last = await create(guarded, NEWS, labels={"team": "x"})
    seen = await _names_until(watch, last.name)
    assert set(seen) == {mine.name, last.name}
    assert not {theirs.name, late.name}.intersection(seen)


async def test_a_resume_token_shows_its_own_tenants_tasks_only(guarded: Served) -> None:
    listed = await guarded.stub.ListVideoTasks(rpc.ListVideoTasksRequest(), **bearer(ADS))
    await create(guarded, ADS)
    mine = await create(guarded, NEWS)
    request = rpc.WatchVideoTasksRequest(resume_token=listed.resume_token)
    assert await _names_until(guarded.stub.WatchVideoTasks(request, **bearer(NEWS)), mine.name) == [mine.name]


async def _names_until(watch: Any, last: str) -> list[str]:
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE):
        async for message in watch:
            seen.extend(task.name for task in message.video_tasks)
            if last in seen:
                break
    watch.cancel()
    return seen


async def test_request_ids_of_tenants_do_not_meet(guarded: Served) -> None:
    first = await create(guarded, ADS, request_id="same")
    second = await create(guarded, NEWS, prompt="another prompt", request_id="same")
    assert first.name != second.name
