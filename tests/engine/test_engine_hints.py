from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kling_flows.engine import polling
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.hints import CallbackAddresses
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Ledger, State, token_digest
from kling_flows.sandbox import SandboxServer
from kling_flows.settings import Settings

from .rig import assert_archived, assert_paid_once, new_task, queue, until, until_state

#: Nobody listens there: what the sandbox itself calls is lost.
NOWHERE = "http://127.0.0.1:9/base/"


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Write down a callback as a front does, through a ledger of its own."""
    (tmp_path / "state").mkdir()
    async with await Ledger.open(f"sqlite:///{tmp_path / 'state' / 'ledger.db'}") as ledger:

        async def call(engine: Engine, name: str, webhook_id: str, *, urgent: bool = True) -> bool:
            assert engine.callbacks is not None
            return await ledger.note_hint(engine.callbacks.digest(name), webhook_id, urgent=urgent)

        yield call


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "RECONCILE_SECONDS", 3600.0)


async def test_the_provider_is_given_our_address_and_never_the_caller_s(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer]
) -> None:
    server = start_sandbox(seconds=(0.2, 0.2))
    engine: Engine = await open_engine_on(server, callback_base_url=NOWHERE)
    task = new_task()
    request = task.request.model_copy(update={"callback_url": "http://127.0.0.1:9/the-caller-s-own"})
    await engine.ledger.create(task.model_copy(update={"request": request}), runner_id=engine.runner_id)
    carrying = asyncio.create_task(carry(engine, "t", None))
    called = await until(server.callbacks)
    assert engine.callbacks is not None
    assert {record["url"] for record in called} == {engine.callbacks.url("sandbox", "t")}
    carrying.cancel()
    await asyncio.wait({carrying})
    # The record is the caller's request, as it was made.
    assert (await engine.ledger.get("t")).request.callback_url == "http://127.0.0.1:9/the-caller-s-own"


async def test_without_a_base_url_the_provider_is_given_no_address(engine: Engine, sandbox: SandboxServer) -> None:
    task = new_task()
    request = task.request.model_copy(update={"callback_url": "http://127.0.0.1:9/the-caller-s-own"})
    await engine.ledger.create(task.model_copy(update={"request": request}), runner_id=engine.runner_id)
    assert_archived(await carry(engine, "t", None))
    assert sandbox.callbacks() == []


@pytest.mark.usefixtures("patient")
async def test_a_callback_ends_the_wait_at_once(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer], front: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(0.6, 0.6))
    engine: Engine = await open_engine_on(server, callback_base_url=NOWHERE)
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.SUBMITTED)
    await until(lambda: server.tasks()[0]["status"] == "succeed")
    assert server.stats()["calls"]["get"] == 1  # the one that learns whether a look-up is honoured
    # Twice, as the provider may.
    assert await front(engine, "t", "w-1")
    assert await front(engine, "t", "w-1")
    task = await carrying
    assert_archived(task)
    assert_paid_once(server, task)
    assert server.stats()["calls"]["get"] == 2


@pytest.mark.usefixtures("patient")
async def test_a_callback_that_comes_before_the_answer_of_the_create_is_not_lost(
    open_engine_on: Callable[..., Any], sandbox: SandboxServer, front: Callable[..., Any]
) -> None:
    engine: Engine = await open_engine_on(sandbox, callback_base_url=NOWHERE)
    sandbox.set_faults([{"fault": "slow", "on": "create", "seconds": 0.5}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.SUBMITTING)
    assert await front(engine, "t", "w-1")
    assert_archived(await carrying)


@pytest.mark.usefixtures("patient")
async def test_a_forged_end_is_not_believed_and_the_true_one_is_still_seen(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer], front: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(1.0, 1.0))
    engine: Engine = await open_engine_on(server, callback_base_url=NOWHERE, poll_interval=0.1)
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until_state(engine, State.SUBMITTED)
    assert await front(engine, "t", "forged")
    await until(lambda: server.stats()["calls"]["get"] >= 2)
    assert not carrying.done()
    # What was called the end is looked at as often as without callbacks for a while.
    assert_archived(await carrying)


@pytest.mark.usefixtures("patient")
async def test_a_callback_of_progress_shows_it(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer], front: Callable[..., Any]
) -> None:
    server = start_sandbox(seconds=(3600.0, 3600.0))
    engine: Engine = await open_engine_on(server, callback_base_url=NOWHERE)
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    await until(lambda: server.tasks() and server.tasks()[0]["status"] == "processing")
    assert await front(engine, "t", "w-1", urgent=False)
    await until_state(engine, State.PROCESSING)
    carrying.cancel()
    await asyncio.wait({carrying})


async def test_when_every_callback_is_lost_the_reconciliation_finds_the_end(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "RECONCILE_SECONDS", 0.4)
    server = start_sandbox(seconds=(0.5, 0.5))
    engine: Engine = await open_engine_on(server, callback_base_url=NOWHERE, poll_interval=0.05)
    await queue(engine)
    assert_archived(await asyncio.wait_for(carry(engine, "t", None), 10))
    # At 0.4 s and 0.8 s, and the one that learns about the look-up; every 0.05 s it would have been ten.
    assert server.stats()["calls"]["get"] <= 4


def test_an_address_is_the_same_whenever_it_is_made_and_never_another_s() -> None:
    ours, theirs = CallbackAddresses("https://h.example/base/", b"k"), CallbackAddresses("https://h.example", b"other")
    url = ours.url("kling", "t")
    assert url.startswith("https://h.example/base/callbacks/kling/")
    assert ours.url("kling", "t") == url
    token = url.rpartition("/")[2]
    assert len(token) == 32
    assert token_digest(token) == ours.digest("t")
    assert len({addresses.digest(name) for addresses in (ours, theirs) for name in ("t", "u")}) == 4


@pytest.mark.parametrize("url", ["ftp://h", "h.example", "https://", "https://h/?a=b", "https://h/#x", "https://[x"])
async def test_a_base_url_that_cannot_be_called_is_refused(url: str, tmp_path: Path) -> None:
    settings = Settings(provider="sandbox", state_dir=tmp_path, callback_base_url=url)
    with pytest.raises(ConfigurationError) as caught:
        async with Engine.open(settings):
            raise AssertionError("it was opened")
    assert "KLING_FLOWS_CALLBACK_BASE_URL" in str(caught.value)
