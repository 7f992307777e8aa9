"""The provider's bills beside what the ledger says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.reconcile import Difference, Reconciliation, reconcile
from kling_flows.ledger import QuoteRecord, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import TextToVideoRequest, UpstreamClient
from kling_flows.upstream.errors import UpstreamAuth

from ..cli.command import run
from .rig import OpenEngine, queue, settings_for


@pytest.fixture
async def with_key(open_engine: OpenEngine) -> Engine:
    """The books are open to an API key only, which is what the standard dialect takes."""
    return await open_engine(dialect="standard")


async def _reconcile(engine: Engine) -> Reconciliation:
    return await reconcile(engine.ledger, engine.client, since=datetime.now(UTC) - timedelta(days=1))


async def _made(engine: Engine, name: str, units: str = "3") -> VideoTask:
    await queue(engine, name)
    await engine.ledger.advance(
        name, lambda task: task.model_copy(update={"quote": QuoteRecord(units=units, usd="0.42")})
    )
    return await carry(engine, name, None)


async def test_bills_that_are_as_noted_and_as_quoted_are_counted_and_no_more(with_key: Engine) -> None:
    await _made(with_key, "one")
    await _made(with_key, "two")
    assert await _reconcile(with_key) == Reconciliation(2, Decimal(6), ())


async def test_a_price_that_was_not_expected_is_shown_with_both_figures(with_key: Engine) -> None:
    await _made(with_key, "one", units="2.5")
    (found,) = (await _reconcile(with_key)).disagreements
    assert (found.difference, found.video_task) == (Difference.QUOTED_OTHERWISE, "one")
    assert (found.billed, found.settled, found.quoted) == (Decimal(3), Decimal(3), Decimal("2.5"))


@pytest.mark.parametrize(
    ("noted", "difference"), [("", Difference.NOT_NOTED), ("4", Difference.SETTLED_OTHERWISE)], ids=["none", "another"]
)
async def test_a_figure_that_was_noted_otherwise_is_shown(with_key: Engine, noted: str, difference: Difference) -> None:
    task = await _made(with_key, "one")
    assert task.upstream is not None
    other = task.upstream.model_copy(update={"settled_units": noted})
    await with_key.ledger.advance("one", lambda before: before.model_copy(update={"upstream": other}))
    assert [found.difference for found in (await _reconcile(with_key)).disagreements] == [difference]


async def test_a_bill_for_what_the_ledger_does_not_know_is_shown(with_key: Engine) -> None:
    paid = (await with_key.client.create(TextToVideoRequest(prompt="a cup"), "somebody-s")).task_id
    while not (await _reconcile(with_key)).tasks:
        await with_key.client.get(paid)
    (found,) = (await _reconcile(with_key)).disagreements
    assert (found.difference, found.upstream_task_id, found.video_task) == (Difference.UNKNOWN, paid, "")


async def test_a_key_pair_cannot_read_the_books_and_is_told_so(engine: Engine) -> None:
    with pytest.raises(UpstreamAuth):
        await _reconcile(engine)


async def test_the_command_shows_packs_and_books(with_key: Engine, sandbox: SandboxServer, tmp_path: Path) -> None:
    await _made(with_key, "one", units="2.5")
    settings = settings_for(sandbox, dialect="standard")
    async with UpstreamClient(settings.account()) as client:
        name = client.account.name
    flags = (
        "--provider",
        "sandbox",
        "--upstream-url",
        sandbox.url,
        "--ledger-url",
        f"sqlite:///{tmp_path / 'state' / 'ledger.db'}",
    )
    shown = await run("account", "--reconcile", *flags, env={"KLING_FLOWS_DIALECT": "standard"})
    assert shown.code == 0, shown.err
    assert "online" in shown.out
    assert "QUOTED_OTHERWISE" in shown.out
    assert name in shown.err
    as_json = await run("account", "--json", *flags)
    assert [pack["status"] for pack in as_json.json["packs"]] == ["online"]
    assert "reconciliation" not in as_json.json
