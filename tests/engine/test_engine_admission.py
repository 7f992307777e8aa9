"""What a task is taken in with, and when it may go to the provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.intake import new_video_task, request_digest
from kling_flows.engine.submit import submit
from kling_flows.errors import InvalidRequest
from kling_flows.ledger import LateVideo, QuoteRecord, State, VideoTask
from kling_flows.runner import runner as runner_module
from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import Dialect, Provider, TextToVideoRequest
from kling_flows.upstream.errors import UpstreamConcurrency

from .rig import assert_archived, new_task, until

REQUEST = TextToVideoRequest(prompt="a cup")
NOW = datetime.now(UTC)


def _new(request: TextToVideoRequest = REQUEST, **fields: Any) -> VideoTask:
    return new_video_task(request, Provider.KLING, tenant="a", **fields)


def test_a_task_knows_its_account_and_its_price() -> None:
    made = _new(account="kling:1")
    assert made.account == "kling:1"
    assert made.quote is not None
    assert Decimal(made.quote.usd) == Decimal(made.quote.units) * Decimal("0.14")
    assert made.quote.uncertain == ()
    assert _new(TextToVideoRequest(prompt="a cup", duration=10)).quote != made.quote
    relayed = new_video_task(REQUEST, Provider.COMETAPI, tenant="a")
    assert relayed.quote is not None
    assert relayed.quote.uncertain


def test_a_price_is_written_as_the_provider_writes_what_it_settles() -> None:
    quote = _new(TextToVideoRequest(prompt="a cup", model_name="kling-v3", duration=5)).quote
    assert quote is not None
    assert (quote.units, quote.usd) == ("3", "0.42")


def test_the_rules_are_those_of_the_dialect() -> None:
    model = TextToVideoRequest(prompt="a cup", model_name="kling-3.0-turbo", mode="pro")  # pyright: ignore[reportArgumentType]
    assert isinstance(_new(model, dialect=Dialect.STANDARD).quote, QuoteRecord)
    with pytest.raises(InvalidRequest):
        _new(model, dialect=Dialect.LEGACY)


def test_wishes_about_the_order_are_kept() -> None:
    deadline = NOW + timedelta(hours=1)
    made = _new(priority=9, deadline=deadline, on_deadline=LateVideo.DISCARD)
    assert (made.priority, made.deadline, made.on_deadline) == (9, deadline, LateVideo.DISCARD)


@pytest.mark.parametrize(
    ("fields", "field", "rule"),
    [
        ({"priority": -1}, "priority", "OUT_OF_RANGE"),
        ({"priority": 10}, "priority", "OUT_OF_RANGE"),
        ({"deadline": NOW - timedelta(seconds=1)}, "deadline", "IN_THE_PAST"),
        ({"deadline": NOW + timedelta(days=31)}, "deadline", "TOO_LATE"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, Any], field: str, rule: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        _new(**fields)
    assert [(violation.field, violation.rule) for violation in caught.value.violations] == [(field, rule)]


def test_other_wishes_are_another_body() -> None:
    deadline = NOW + timedelta(hours=1)
    wishes: list[dict[str, Any]] = [
        {},
        {"priority": 1},
        {"deadline": deadline},
        {"deadline": deadline + timedelta(microseconds=1)},
        {"on_deadline": LateVideo.DISCARD},
    ]
    assert len({request_digest(REQUEST, {}, "", **wish) for wish in wishes}) == len(wishes)
    default = {"priority": 0, "deadline": None, "on_deadline": LateVideo.KEEP_VIDEO}
    assert request_digest(REQUEST, {}, "", **default) == request_digest(REQUEST, {}, "")


async def _claim(engine: Engine) -> list[str]:
    claimed = await engine.ledger.claim(engine.runner_id, 100, account=engine.client.account.name)
    return [task.id for task in claimed]


async def test_a_refusal_for_want_of_a_place_stops_further_claims(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    sandbox = start_sandbox(seconds=(60.0, 60.0), concurrency=2)
    engine: Engine = await open_engine_on(sandbox)
    account = engine.client.account.name
    for number in range(3):
        await engine.ledger.create(new_task(f"t-{number}"))
    assert await _claim(engine) == ["t-0", "t-1", "t-2"]
    for number in range(2):
        assert (await submit(engine, f"t-{number}")).state is State.SUBMITTED
    with pytest.raises(UpstreamConcurrency):
        await submit(engine, "t-2")
    await engine.ledger.create(new_task("t-3"))
    assert await _claim(engine) == []
    start = await engine.ledger.claimable_from(account=account)
    assert start is not None
    assert start > time.time()
    refused = await engine.ledger.get("t-2")
    assert refused.state is State.SUBMITTING
    assert refused.upstream is not None
    assert not refused.upstream.outcome_unknown
    assert len(sandbox.charges()) == 2


class Carriers:
    """Carries what is claimed, without flow runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: set[asyncio.Task[VideoTask]] = set()

    @property
    def runner_id(self) -> str:
        return self._engine.runner_id

    @property
    def room(self) -> int:
        return self._engine.settings.max_in_flight - len(self._running)

    def put(self, tasks: Sequence[VideoTask]) -> None:
        for task in tasks:
            running = asyncio.create_task(carry(self._engine, task.id, None))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    async def end(self) -> None:
        for running in self._running:
            running.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


async def test_the_runner_claims_as_places_become_free(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only what is written here can wake it: it does not look again by itself.
    monkeypatch.setattr(runner_module, "_LOOK_SECONDS", 3600.0)
    # The provider would refuse one more than there are places, and it would then have to be sent again.
    sandbox = start_sandbox(seconds=(0.2, 0.2), concurrency=2)
    engine: Engine = await open_engine_on(sandbox, slots=2)
    names = [f"t-{number}" for number in range(6)]
    for name in names:
        await engine.ledger.create(new_task(name))
    carriers: Any = Carriers(engine)
    claiming = asyncio.create_task(
        runner_module._claim_forever(engine, carriers)  # pyright: ignore[reportPrivateUsage]
    )
    try:

        async def all_ended() -> list[VideoTask] | None:
            tasks = await engine.ledger.get_many(names, tenant="default")
            return tasks if all(task.state.final for task in tasks) else None

        for task in await until(all_ended):
            assert_archived(task)
            assert task.upstream is not None
            assert task.upstream.submit_attempts == 1
    finally:
        claiming.cancel()
        await asyncio.wait({claiming})
        await carriers.end()
    assert len(sandbox.charges()) == 6
