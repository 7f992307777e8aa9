"""What videos can be and what they cost: models, quotes and budgets as callers get them."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from grpc_server.auth.identity import caller
from grpc_server.intake import Terms, read_create
from kling_flows.ledger import BudgetUse, Ledger
from kling_flows.upstream import Mode, ModelInfo, ModelStatus, ModePrice, models, price_list, quote
from kling_flows.upstream.wording import plain
from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_service_pb2 as rpc

_MODES: Final[Mapping[Mode, spec_pb.TextToVideo.Mode.ValueType]] = {
    mode: spec_pb.TextToVideo.Mode.Value(mode.name) for mode in Mode
}


def list_models(request: rpc.ListModelsRequest, terms: Terms) -> rpc.ListModelsResponse:
    """What the models of the terms' provider and dialect can do, the preferred one first."""
    known = models(terms.provider, terms.dialect)
    return rpc.ListModelsResponse(
        models=[_model(info) for info in known if request.show_retired or info.status is not ModelStatus.RETIRED],
        provider=terms.provider.value,
        dialect=terms.dialect.value,
    )


def quote_video_task(request: rpc.QuoteVideoTaskRequest, terms: Terms) -> rpc.Quote:
    """What a create would cost, checked as a create is.

    Raises:
        InvalidRequest: with all violations, their paths as in the request.
    """
    wish, _ = read_create(rpc.CreateVideoTaskRequest(video_task=request.video_task), terms, caller().tenant)
    price = quote(wish.request, terms.provider, terms.dialect)
    return rpc.Quote(
        units=plain(price.units),
        usd=plain(price.usd),
        uncertainties=price.uncertain,
        source=price.source,
        as_of=price.as_of.isoformat(),
    )


async def list_budgets(terms: Terms, ledger: Ledger) -> rpc.ListBudgetsResponse:
    """The budgets that concern the caller's tenant."""
    uses = await ledger.read_budgets(terms.budgets, caller().tenant)
    return rpc.ListBudgetsResponse(budgets=[_budget(use) for use in uses])


def _model(info: ModelInfo) -> rpc.Model:
    return rpc.Model(
        model_name=info.name,
        status=rpc.Model.Status.Value(info.status.name),
        successor=info.successor or "",
        modes=[_mode(mode) for mode in info.modes],
        durations=info.durations,
        aspect_ratios=info.aspect_ratios,
        prompt_limit=info.prompt_limit,
        negative_prompt_limit=info.negative_prompt_limit,
        cfg_scale=info.cfg_scale is not None,
        camera_control=info.camera is not None,
        multi_shot=info.multi_shot,
        voices=info.max_voices > 0,
        note=info.note,
        source=info.source,
        as_of=info.as_of.isoformat(),
        sound_always=info.sound_always,
        max_shots=info.max_shots,
        shot_prompt_limit=info.shot_prompt_limit,
        max_voices=info.max_voices,
    )


def _mode(price: ModePrice) -> rpc.ModelMode:
    return rpc.ModelMode(
        mode=_MODES[price.mode],
        silent_units_per_second=plain(_units(price.silent_usd)),
        sound_units_per_second=plain(_units(price.sound_usd)),
        silent_usd_per_second=plain(price.silent_usd),
        sound_usd_per_second=plain(price.sound_usd),
        resolution=price.resolution,
        sound=price.sound,
    )


def _units(usd: Decimal | None) -> Decimal | None:
    return None if usd is None else usd / price_list().unit.usd


def _budget(use: BudgetUse) -> rpc.Budget:
    budget = use.budget
    return rpc.Budget(
        tenant=budget.tenant,
        account=budget.account,
        period=rpc.Budget.Period.Value(budget.period.upper()),
        limit_units=plain(budget.units),
        limit_usd=plain(budget.usd),
        reserved_units=plain(use.reserved_units),
        reserved_usd=plain(use.reserved_usd),
        settled_units=plain(use.settled_units),
        settled_usd=plain(use.settled_usd),
    )
