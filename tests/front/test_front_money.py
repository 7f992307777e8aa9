"""Models, quotes and budgets as callers see them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import grpc
import pytest

from kling_flows.settings import Budget
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Rig, Served, refused


async def models(served: Served, **fields: Any) -> dict[str, rpc.Model]:
    response = await served.stub.ListModels(rpc.ListModelsRequest(**fields))
    return {model.model_name: model for model in response.models}


async def quote(served: Served, **spec: Any) -> rpc.Quote:
    task = pb.VideoTask(text_to_video=spec_pb.TextToVideo(**{"prompt": "a cat", **spec}))
    return await served.stub.QuoteVideoTask(rpc.QuoteVideoTaskRequest(video_task=task))


async def test_models_say_what_a_form_needs(served: Served) -> None:
    response = await served.stub.ListModels(rpc.ListModelsRequest())
    assert (response.provider, response.dialect) == ("sandbox", "legacy")
    v3 = response.models[0]
    assert (v3.model_name, v3.status, v3.multi_shot, v3.max_shots) == ("kling-v3", rpc.Model.ACTIVE, True, 6)
    assert list(v3.durations) == list(range(3, 16))
    std = v3.modes[0]
    assert (std.mode, std.silent_units_per_second, std.sound_units_per_second) == (
        spec_pb.TextToVideo.STD,
        "0.6",
        "0.9",
    )
    assert (std.silent_usd_per_second, std.sound) == ("0.084", True)
    assert v3.source
    assert v3.as_of


async def test_retired_models_are_shown_if_asked_for_with_their_successor(served: Served) -> None:
    assert "kling-v1" not in await models(served)
    retired = (await models(served, show_retired=True))["kling-v1"]
    assert (retired.status, retired.successor) == (rpc.Model.RETIRED, "kling-v2-5-turbo")


async def test_models_are_those_of_the_servers_dialect(rig: Rig) -> None:
    standard = await rig.serve(dialect="standard")
    known = await models(standard)
    assert "kling-3.0-turbo" in known
    assert known["kling-v3"].negative_prompt_limit == 0


async def test_every_model_that_is_listed_can_be_created_in_each_of_its_modes(served: Served) -> None:
    for model in (await models(served)).values():
        for mode in model.modes:
            spec = spec_pb.TextToVideo(
                prompt="a cat", model_name=model.model_name, mode=mode.mode, duration=model.durations[0]
            )
            created = await served.create(spec=spec, validate_only=True)
            assert created.text_to_video.model_name == model.model_name


async def test_a_quote_is_what_the_task_will_then_hold(served: Served) -> None:
    price = await quote(served, model_name="kling-v3", mode=spec_pb.TextToVideo.PRO, sound=spec_pb.TextToVideo.ON)
    assert (price.units, price.usd) == ("6", "0.84")
    created = await served.create(
        spec=spec_pb.TextToVideo(
            prompt="a cat", model_name="kling-v3", mode=spec_pb.TextToVideo.PRO, sound=spec_pb.TextToVideo.ON
        )
    )
    assert (Decimal(created.cost.quoted_units), Decimal(created.cost.quoted_usd)) == (Decimal(6), Decimal("0.84"))
    assert list(created.cost.uncertainties) == list(price.uncertainties)


async def test_a_quote_of_what_could_not_be_created_names_the_fields(served: Served) -> None:
    refusal = await refused(quote(served, duration=99))
    assert (refusal.code, refusal.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        ["video_task.text_to_video.duration"],
    )


async def test_budgets_show_what_is_reserved_now(rig: Rig) -> None:
    mine = Budget(tenant="default", period="month", units=Decimal(100))
    everybody = Budget(period="total", usd=Decimal("50.5"))
    theirs = Budget(tenant="another", units=Decimal(1))
    served = await rig.serve(budgets=(mine, everybody, theirs))
    await served.create()
    response = await served.stub.ListBudgets(rpc.ListBudgetsRequest())
    first, second = response.budgets
    assert (first.tenant, first.period, first.limit_units, first.limit_usd) == ("default", rpc.Budget.MONTH, "100", "")
    assert (first.reserved_units, first.reserved_usd, first.settled_units) == ("3", "0.42", "0")
    assert (second.tenant, second.period, second.limit_usd) == ("*", rpc.Budget.TOTAL, "50.5")


@pytest.mark.parametrize("method", ["ListModels", "ListBudgets"])
async def test_what_takes_no_argument_answers_an_empty_request(served: Served, method: str) -> None:
    request = {"ListModels": rpc.ListModelsRequest(), "ListBudgets": rpc.ListBudgetsRequest()}[method]
    assert await getattr(served.stub, method)(request)
