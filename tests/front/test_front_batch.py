"""BatchCreateVideoTasks: all or each, in one transaction."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from kling_flows.settings import Budget
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, create_request, new_record, refused


async def batch(
    served: Served, *requests: rpc.CreateVideoTaskRequest, **fields: Any
) -> list[rpc.BatchCreateVideoTasksResult]:
    request = rpc.BatchCreateVideoTasksRequest(requests=requests, **fields)
    response = await served.stub.BatchCreateVideoTasks(request)
    assert len(response.results) == len(requests)
    return list(response.results)


def reason(status: Status) -> str:
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info.reason


def violated(status: Status) -> list[str]:
    found = BadRequest()
    assert status.details[1].Unpack(found)
    return [violation.field for violation in found.field_violations]


@pytest.mark.parametrize("together", [True, False])
async def test_a_batch_becomes_tasks_in_its_order(served: Served, together: bool) -> None:
    results = await batch(
        served, *(create_request(f"cat {n}", labels={"n": str(n)}) for n in range(30)), all_or_nothing=together
    )
    tasks = [result.video_task for result in results]

    assert [task.text_to_video.prompt for task in tasks] == [f"cat {n}" for n in range(30)]
    assert [await served.get(task.name) for task in tasks] == tasks
    assert await served.ledger.head() == 30


@pytest.mark.parametrize("together", [True, False])
async def test_a_thousand_tasks_fit_in_one_call_and_one_answer(served: Served, together: bool) -> None:
    requests = [create_request("猫" * 2_400, video_task_id=f"v{n}") for n in range(1_000)]
    response = rpc.BatchCreateVideoTasksRequest(requests=requests, all_or_nothing=together)
    assert response.ByteSize() > 7_000_000
    results = await batch(served, *requests, all_or_nothing=together)

    assert [result.video_task.name for result in results] == [f"videoTasks/v{n}" for n in range(1_000)]
    assert not any(result.video_task.HasField("text_to_video") for result in results)
    assert (await served.get("videoTasks/v999")).text_to_video.prompt == "猫" * 2_400


async def test_an_answer_that_is_still_too_large_says_the_least_of_each(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.batch.RESPONSE_BYTES", 10_000)
    labels = {f"k{n}": "x" * 255 for n in range(32)}
    good, bad = await batch(
        served, create_request(labels=labels), create_request("x" * 5_000, labels={f"K{n}": "" for n in range(32)})
    )

    assert good.video_task.name
    assert good.video_task.HasField("create_time")
    assert not good.video_task.labels
    assert (bad.error.code, reason(bad.error)) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], "INVALID_REQUEST")
    assert len(bad.error.details) == 1
    assert len(bad.error.message) <= 200


async def test_each_stands_alone_and_says_what_its_own_create_would_have_said(served: Served) -> None:
    await served.create(video_task_id="taken")
    results = await batch(
        served,
        create_request("a"),
        create_request("x" * 5_000),
        create_request(video_task_id="taken"),
        create_request("b", request_id="r-1"),
        create_request("c", request_id="r-1"),
        create_request("b", request_id="r-1"),
        create_request("d", video_task_id="mine"),
        create_request("e", video_task_id="mine"),
    )
    alone = await refused(served.create("x" * 5_000))

    assert [result.WhichOneof("outcome") for result in results] == [
        "video_task",
        "error",
        "error",
        "video_task",
        "error",
        "video_task",
        "video_task",
        "error",
    ]
    assert results[1].error.message == alone.message
    assert violated(results[1].error) == alone.fields == ["video_task.text_to_video.prompt"]
    assert [reason(results[n].error) for n in (2, 4, 7)] == [
        "VIDEO_TASK_EXISTS",
        "REQUEST_ID_REUSED",
        "VIDEO_TASK_EXISTS",
    ]
    assert results[3] == results[5]
    assert await served.ledger.head() == 4


async def test_a_batch_can_be_repeated(served: Served) -> None:
    requests = [create_request(f"cat {n}", request_id=f"r-{n}") for n in range(5)]
    first = await batch(served, *requests[:3])
    await served.cancel(first[0].video_task.name)
    second = await batch(served, *requests)
    third = await batch(served, *requests, all_or_nothing=True)

    assert [each.video_task.name for each in second][:3] == [each.video_task.name for each in first]
    assert second[0].video_task.state == pb.VideoTask.CANCELLED
    assert third == second
    assert len((await served.list()).video_tasks) == 5


async def test_all_or_nothing_creates_nothing_if_one_is_wrong_and_names_every_field(served: Served) -> None:
    call = batch(
        served,
        create_request("a"),
        create_request("x" * 5_000),
        create_request(labels={"K": "v"}, request_id="no no"),
        all_or_nothing=True,
    )
    refusal = await refused(call)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert sorted(refusal.fields) == [
        "requests[1].video_task.text_to_video.prompt",
        "requests[2].request_id",
        "requests[2].video_task.labels",
    ]
    assert await served.ledger.head() == 0


async def test_all_or_nothing_creates_nothing_if_the_ledger_refuses_one(served: Served) -> None:
    await served.create(video_task_id="taken")
    refusal = await refused(
        batch(served, create_request("a"), create_request(video_task_id="taken"), all_or_nothing=True)
    )

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "VIDEO_TASK_EXISTS")
    assert refusal.message.startswith("requests[1]: videoTasks/taken exists")
    assert refusal.info.metadata["field"] == "requests[1]"
    assert await served.ledger.head() == 1


async def test_all_or_nothing_takes_a_repetition_but_no_contradiction_within_the_batch(served: Served) -> None:
    refusal = await refused(
        batch(
            served,
            create_request("a", request_id="r"),
            create_request("b", request_id="r"),
            create_request("c", video_task_id="v"),
            create_request("c", video_task_id="v"),
            all_or_nothing=True,
        )
    )
    assert refusal.fields == ["requests[1].request_id", "requests[3].video_task_id"]
    same = create_request("a", request_id="r", video_task_id="v")
    first, second = await batch(served, same, same, all_or_nothing=True)

    assert first == second
    assert await served.ledger.head() == 1


async def test_the_queue_takes_of_a_batch_what_there_is_room_for_or_nothing(rig: Rig) -> None:
    served = await rig.serve(max_queued=5)
    refusal = await refused(batch(served, *(create_request() for _ in range(6)), all_or_nothing=True))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert refusal.retry_seconds == 5
    results = await batch(served, *(create_request() for _ in range(7)))

    assert [result.WhichOneof("outcome") for result in results] == ["video_task"] * 5 + ["error"] * 2
    assert reason(results[6].error) == "QUEUE_FULL"
    assert await served.ledger.head() == 5


@pytest.mark.parametrize("together", [True, False])
async def test_a_batch_can_be_checked_without_creating_anything(served: Served, together: bool) -> None:
    results = await batch(
        served,
        create_request("a", validate_only=True),
        create_request("b", validate_only=True),
        all_or_nothing=together,
    )

    assert [result.video_task.text_to_video.prompt for result in results] == ["a", "b"]
    assert await served.ledger.head() == 0


async def test_a_batch_that_is_none_is_refused(served: Served) -> None:
    for requests in (
        [],
        [create_request()] * 1_001,
        [create_request(), create_request(validate_only=True)],
    ):
        refusal = await refused(batch(served, *requests))
        assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["requests"])
    assert await served.ledger.head() == 0


async def test_a_draining_front_takes_no_batch(served: Served) -> None:
    await served.front.begin_drain()

    assert (await refused(batch(served, create_request()))).reason == "SERVER_UNAVAILABLE"


async def test_a_batch_that_is_refused_does_not_disturb_its_neighbours(served: Served) -> None:
    """They share a transaction, in which nothing of the batch may stay."""
    await served.ledger.create(new_record("taken"))
    good = [create_request(video_task_id=f"v{n}") for n in range(20)]
    bad = [*(create_request(video_task_id=f"w{n}") for n in range(20)), create_request(video_task_id="taken")]
    request = rpc.BatchCreateVideoTasksRequest(requests=bad, all_or_nothing=True)
    calls = [served.stub.BatchCreateVideoTasks(request) for _ in range(5)]
    results = await batch(served, *good)
    for call in calls:
        assert (await refused(call)).reason == "VIDEO_TASK_EXISTS"

    assert all(result.HasField("video_task") for result in results)
    assert await served.ledger.head() == 21


async def test_budgets_take_of_a_batch_what_they_cover_or_nothing(rig: Rig) -> None:
    cost = float((await (await rig.serve()).create(validate_only=True)).cost.quoted_units)
    served = await rig.serve(budgets=(Budget(units=Decimal(str(cost * 2.5))),))
    requests = [create_request() for _ in range(4)]
    refusal = await refused(batch(served, *requests, all_or_nothing=True))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    assert refusal.message.startswith("requests[2]: ")
    results = await batch(served, *requests)

    assert [result.WhichOneof("outcome") for result in results] == ["video_task"] * 2 + ["error"] * 2
    assert reason(results[2].error) == "BUDGET_EXCEEDED"
    assert await served.ledger.head() == 2


async def test_every_task_of_a_batch_counts_against_the_rate(rig: Rig) -> None:
    served = await rig.serve(create_rate=0.001)
    await batch(served, *(create_request() for _ in range(20)))
    refusal = await refused(batch(served, create_request()))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert await served.ledger.head() == 20
