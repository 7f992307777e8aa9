from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from kling_flows.ledger import LateVideo
from kling_flows.settings import Budget
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, refused

TWO_CLIPS = Budget(units=Decimal("6.5"))


def _request(request_id: str = "", **fields: object) -> rpc.CreateVideoTaskRequest:
    task = pb.VideoTask(text_to_video=spec_pb.TextToVideo(prompt="a cat"), **fields)  # pyright: ignore[reportArgumentType]
    return rpc.CreateVideoTaskRequest(video_task=task, request_id=request_id)


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def test_a_full_budget_refuses_the_next_video(rig: Rig) -> None:
    served = await rig.serve(budgets=(TWO_CLIPS,))
    first = await served.stub.CreateVideoTask(_request("r-1"))
    quote = (await served.ledger.get(first.name.removeprefix("videoTasks/"))).quote
    assert quote is not None
    affordable = int(Decimal("6.5") / Decimal(quote.units))
    for _ in range(affordable - 1):
        await served.create()
    refusal = await refused(served.create())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
    assert refusal.retry_seconds is None
    assert refusal.quota is not None
    (violation,) = refusal.quota.violations
    assert violation.subject == TWO_CLIPS.name
    assert TWO_CLIPS.name in violation.description
    assert refusal.info.metadata["limit"] == "6.5"
    assert refusal.info.metadata["unit"] == "units"
    assert await served.ledger.head() == affordable
    # What was accepted before is still answered.
    assert await served.stub.CreateVideoTask(_request("r-1")) == first


async def test_a_cancel_before_the_provider_gives_the_money_back(rig: Rig) -> None:
    served = await rig.serve(budgets=(Budget(usd=Decimal("0.90"), period="total"),))
    held = [(await served.create()).name]
    while (await served.ledger.read_budgets([Budget(period="total")]))[0].reserved_usd * 2 <= Decimal("0.90"):
        held.append((await served.create()).name)
    await refused(served.create())
    await served.cancel(held[0])
    await served.create()


async def test_two_fronts_share_a_budget(rig: Rig) -> None:
    fronts = [await rig.serve(budgets=(TWO_CLIPS,)) for _ in range(2)]
    outcomes = await asyncio.gather(*(fronts[n % 2].create() for n in range(40)), return_exceptions=True)
    created = [outcome for outcome in outcomes if isinstance(outcome, pb.VideoTask)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
    assert created
    assert len(created) + len(refusals) == 40
    assert {refusal.code() for refusal in refusals} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    (use,) = await fronts[0].ledger.read_budgets([TWO_CLIPS], "default")
    assert 0 < use.reserved_units <= Decimal("6.5")
    await refused(fronts[0].create())
    await refused(fronts[1].create())


async def test_wishes_about_the_order_arrive_in_the_ledger(served: Served) -> None:
    deadline = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    made = await served.stub.CreateVideoTask(
        _request(priority=7, deadline=_stamp(deadline), on_deadline=pb.LateVideo.DISCARD)
    )
    task = await served.ledger.get(made.name.removeprefix("videoTasks/"))
    assert (task.priority, task.deadline, task.on_deadline) == (7, deadline, LateVideo.DISCARD)
    assert task.account.startswith("sandbox:")


async def test_impossible_wishes_are_named_by_their_fields(served: Served) -> None:
    request = _request(priority=10, deadline=_stamp(datetime(2020, 1, 1, tzinfo=UTC)))
    request.video_task.on_deadline = 99  # pyright: ignore[reportAttributeAccessIssue]
    refusal = await refused(served.stub.CreateVideoTask(request))
    assert sorted(refusal.fields) == ["video_task.deadline", "video_task.on_deadline", "video_task.priority"]
    request = _request(deadline=Timestamp(seconds=10**17))
    assert (await refused(served.stub.CreateVideoTask(request))).fields == ["video_task.deadline"]


async def test_another_deadline_is_another_body(served: Served) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=2)
    first = await served.stub.CreateVideoTask(_request("r", deadline=_stamp(deadline)))
    assert await served.stub.CreateVideoTask(_request("r", deadline=_stamp(deadline))) == first
    refusal = await refused(served.stub.CreateVideoTask(_request("r", deadline=_stamp(deadline + timedelta(1)))))
    assert refusal.reason == "REQUEST_ID_REUSED"


async def test_a_front_without_a_key_takes_tasks_in(rig: Rig) -> None:
    served = await rig.serve(provider="kling", budgets=(Budget(account="kling:1", units=Decimal(0)),))
    # It may be this account that pays, so that its budget counts.
    refusal = await refused(served.create())
    assert refusal.reason == "BUDGET_EXCEEDED"
