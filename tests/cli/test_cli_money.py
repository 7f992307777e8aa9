"""Commands about models, prices, budgets, callbacks and what becomes of late videos."""

from __future__ import annotations

from typing import Any

import pytest

from kling_flows.errors import InvalidRequest, Violation
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import LateVideo, Upstream
from kling_flows.v1.video_task_service_pb2 import (
    Budget,
    CallbackDelivery,
    CancelVideoTaskRequest,
    ListBudgetsResponse,
    ListCallbackDeliveriesRequest,
    ListCallbackDeliveriesResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    ModelMode,
    Quote,
    QuoteVideoTaskRequest,
    RetryCallbackDeliveryRequest,
)

from .command import Result, run
from .front import NAME, Front, refuses, returns, task


async def call(front: Front, *arguments: str) -> Result:
    return await run(*arguments, "--server", front.address)


MODELS = ListModelsResponse(
    provider="kling",
    dialect="legacy",
    models=[
        Model(
            model_name="kling-v3",
            status=Model.ACTIVE,
            modes=[ModelMode(mode=TextToVideo.STD, silent_units_per_second="0.6", sound_units_per_second="0.9")],
            durations=range(3, 16),
            negative_prompt_limit=2500,
            multi_shot=True,
        ),
        Model(model_name="kling-v1", status=Model.RETIRED, successor="kling-v2-5-turbo", durations=[5, 10]),
    ],
)
QUOTE = Quote(units="3", usd="0.42", uncertainties=["discounts are not known"], source="price page", as_of="2026-08-01")


async def test_models_show_what_can_be_chosen_and_what_it_costs(front: Front) -> None:
    front.answers = [returns(MODELS)]
    result = await call(front, "models", "--all")
    assert result.code == 0
    first, second = result.out.splitlines()[1:]
    for words in ("kling-v3", "active", "3 to 15", "std 0.6/0.9", "negative prompt, shots"):
        assert words in first
    assert "retired, use kling-v2-5-turbo" in second
    assert "At kling, dialect legacy." in result.err
    assert front.requests == [ListModelsRequest(show_retired=True)]


async def test_a_quote_sends_what_generate_would_send_and_creates_nothing(front: Front) -> None:
    front.answers = [returns(QUOTE)]
    result = await call(front, "quote", "a fox", "--model", "kling-v3", "--mode", "pro", "--sound", "on")
    assert result.code == 0
    for words in ("3", "0.42", "discounts are not known", "price page, 2026-08-01"):
        assert words in result.out
    wanted = TextToVideo(prompt="a fox", model_name="kling-v3", mode=TextToVideo.PRO, sound=TextToVideo.ON)
    (request,) = front.requests
    assert isinstance(request, QuoteVideoTaskRequest)
    assert request.video_task.text_to_video == wanted


@pytest.mark.parametrize(("option", "out"), [("--quiet", "3\n"), ("--json", None)])
async def test_a_quote_for_programs(front: Front, option: str, out: str | None) -> None:
    front.answers = [returns(QUOTE)]
    result = await call(front, "quote", "a fox", option)
    if out is None:
        assert (result.json["units"], result.json["usd"]) == ("3", "0.42")
    else:
        assert result.out == out


async def test_a_quote_of_what_no_model_takes_is_refused_like_a_create(front: Front) -> None:
    front.answers = [refuses(InvalidRequest([Violation("text_to_video.duration", "OUT_OF_RANGE", "too long")]))]
    result = await call(front, "quote", "a fox", "--duration", "99")
    assert result.code == 3
    assert "--duration" in result.err
    assert (await call(front, "quote")).code == 2


async def test_budgets_show_limits_and_what_is_left_of_them(front: Front) -> None:
    budget = Budget(
        tenant="ads",
        account="*",
        period=Budget.MONTH,
        limit_units="500",
        reserved_units="6",
        reserved_usd="0.84",
        settled_units="12",
        settled_usd="1.68",
    )
    front.answers = [returns(ListBudgetsResponse(budgets=[budget]))]
    result = await call(front, "budgets")
    assert result.code == 0
    for words in ("ads", "month", "500 units", "6 units, US$ 0.84", "12 units, US$ 1.68"):
        assert words in result.out
    front.answers = [returns(ListBudgetsResponse())]
    assert "There are no budgets" in (await call(front, "budgets")).err


def _delivery(number: int, state: Any = CallbackDelivery.DEAD) -> CallbackDelivery:
    return CallbackDelivery(
        name=f"callbackDeliveries/{number}", video_task=NAME, state=state, attempts=7, last_error="HTTP 500"
    )


async def test_callbacks_are_listed_over_all_pages_up_to_the_limit(front: Front) -> None:
    first = ListCallbackDeliveriesResponse(callback_deliveries=[_delivery(9), _delivery(8)], next_page_token="more")
    front.answers = [returns(first), returns(ListCallbackDeliveriesResponse(callback_deliveries=[_delivery(7)]))]
    result = await call(front, "callbacks", "--state", "dead", "--task", "vt-1", "--limit", "3")
    assert result.code == 0
    assert [line.split()[0] for line in result.out.splitlines()[1:]] == ["9", "8", "7"]
    assert "HTTP 500" in result.out
    asked = ListCallbackDeliveriesRequest(state=CallbackDelivery.DEAD, video_task=NAME, page_size=3)
    assert front.requests[0] == asked
    assert (front.requests[1].page_token, front.requests[1].page_size) == ("more", 1)


async def test_a_dead_callback_is_tried_again_by_its_number(front: Front) -> None:
    front.answers = [returns(_delivery(9, CallbackDelivery.PENDING))]
    result = await call(front, "callbacks", "--retry", "9", "--json")
    assert [delivery["state"] for delivery in result.json["callback_deliveries"]] == ["PENDING"]
    assert front.requests == [RetryCallbackDeliveryRequest(name="callbackDeliveries/9")]


async def test_a_cancel_after_the_submit_offers_to_keep_the_video(front: Front) -> None:
    front.answers = [returns(task("CANCELLED", 4, upstream=Upstream(task_id="up-7")))]
    result = await call(front, "cancel", "vt-1")
    assert result.code == 0
    assert "--on-cancel KEEP_VIDEO" in result.err
    assert front.requests == [CancelVideoTaskRequest(name=NAME)]


async def test_a_cancel_that_keeps_the_video_says_so(front: Front) -> None:
    front.answers = [returns(task("CANCELLED", 4, upstream=Upstream(task_id="up-7"), video_pending=True))]
    result = await call(front, "cancel", "vt-1", "--on-cancel", "KEEP_VIDEO")
    assert "archived" in result.err
    assert front.requests == [CancelVideoTaskRequest(name=NAME, on_cancel=LateVideo.KEEP_VIDEO)]


async def test_deadline_and_priority_reach_the_task(front: Front) -> None:
    front.answers = [returns(task())]
    arguments = ("--priority", "7", "--deadline", "2h", "--on-deadline", "DISCARD", "--detach")
    assert (await call(front, "generate", "a fox", *arguments)).code == 0
    created = front.requests[0].video_task
    assert (created.priority, created.on_deadline) == (7, LateVideo.DISCARD)
    assert created.HasField("deadline")
