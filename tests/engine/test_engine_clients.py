"""A task ends with the account that it began with, whatever the settings say meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK
from kling_flows.settings import Settings
from kling_flows.upstream import ApiKeyCredentials, Dialect, JwtCredentials, Provider
from kling_flows.upstream.constants import REGIONS, SANDBOX_API_KEY

from .rig import assert_archived, assert_paid_once, creates, queue, until_state

OpenOn = Callable[..., Any]


async def _submitted(engine: Engine, prompt: str = "a cup") -> VideoTask:
    """A task at the provider that its runner has let go of."""
    await queue(engine, prompt=prompt)
    carrying = asyncio.create_task(carry(engine, "t", None))
    submitted = await until_state(engine, State.SUBMITTED, State.PROCESSING)
    carrying.cancel()
    await asyncio.wait({carrying})
    await engine.ledger.release_after(["t"], engine.runner_id, 0)
    return submitted


async def test_a_task_ends_where_it_began_after_the_settings_have_changed(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: OpenOn
) -> None:
    former, present = start_sandbox(seconds=(1.0, 1.0)), start_sandbox()
    await _submitted(await open_engine_on(former))
    engine: Engine = await open_engine_on(present)
    await engine.ledger.claim_one("t", engine.runner_id)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(former, ended)
    assert creates(present) == 0
    await queue(engine, "new")
    assert_archived(await carry(engine, "new", None))
    assert creates(present) == 1


@pytest.mark.parametrize(("first", "then"), [("legacy", "standard"), ("standard", "legacy")])
async def test_a_task_keeps_its_dialect(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: OpenOn, first: str, then: str
) -> None:
    server = start_sandbox(seconds=(1.0, 1.0))
    submitted = await _submitted(await open_engine_on(server, dialect=first))
    assert submitted.upstream is not None
    assert submitted.upstream.dialect == first
    engine: Engine = await open_engine_on(server, dialect=then)
    await engine.ledger.claim_one("t", engine.runner_id)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert ended.upstream is not None
    assert ended.upstream.dialect == first
    assert engine.client.account.dialect == then
    assert_paid_once(server, ended)


async def test_one_client_serves_all_tasks_of_an_account(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: OpenOn
) -> None:
    former = start_sandbox()
    task = await _submitted(await open_engine_on(former), STUCK_MARK)
    engine: Engine = await open_engine_on(start_sandbox())
    opened = await asyncio.gather(*(engine.upstream_of(task) for _ in range(5)))
    assert len({id(upstream) for upstream in opened}) == 1
    assert opened[0].client.account.base_url == former.url
    assert await engine.upstream_of(task.model_copy(update={"upstream": None})) is engine.upstreams.default


async def test_a_task_whose_key_is_no_longer_set_stays_where_it_is(
    sandbox: SandboxServer, open_engine_on: OpenOn
) -> None:
    engine: Engine = await open_engine_on(sandbox)
    submitted = await _submitted(engine, STUCK_MARK)
    assert submitted.upstream is not None
    other = submitted.upstream.model_copy(update={"account": "kling:00000000", "provider": "kling"})
    await engine.ledger.advance("t", lambda before: before.model_copy(update={"upstream": other}))
    await engine.ledger.claim_one("t", engine.runner_id)
    before = await engine.ledger.get("t")
    with pytest.raises(ConfigurationError) as caught:
        await carry(engine, "t", None)
    assert "kling:00000000" in caught.value.message
    assert sandbox.url in caught.value.message
    assert await engine.ledger.get("t") == before


def test_the_region_and_the_dialect_make_the_account() -> None:
    account = Settings(provider=Provider.KLING, kling_api_key="k" * 32, region="beijing", dialect="standard").account()
    assert (account.base_url, account.dialect) == (REGIONS["beijing"], Dialect.STANDARD)
    elsewhere = Settings(provider=Provider.KLING, kling_api_key="k" * 32, region="beijing", upstream_url="http://h/")
    assert elsewhere.account().base_url == "http://h"


def test_the_sandbox_s_standard_dialect_takes_its_api_key() -> None:
    account = Settings(provider=Provider.SANDBOX, dialect="standard").account()
    assert isinstance(account.credentials, ApiKeyCredentials)
    assert account.credentials.api_key.get_secret_value() == SANDBOX_API_KEY
    assert isinstance(Settings(provider=Provider.SANDBOX).account().credentials, JwtCredentials)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"region": "mars"}, "KLING_FLOWS_REGION"),
        ({"upstream_url": "ftp://host"}, "KLING_FLOWS_UPSTREAM_URL"),
        ({"dialect": "standard", "kling_api_key": None}, "KLING_FLOWS_DIALECT"),
        ({"provider": "sandbox", "region": "beijing"}, "KLING_FLOWS_REGION"),
    ],
)
def test_what_does_not_go_together_is_named_as_it_is_set(settings: dict[str, Any], named: str) -> None:
    given = {
        "provider": "kling",
        "kling_api_key": "k" * 32,
        "kling_access_key": "a" * 32,
        "kling_secret_key": "s" * 32,
        **settings,
    }
    with pytest.raises(ConfigurationError) as caught:
        Settings(**given).account()
    assert caught.value.setting == named
    assert caught.value.message.startswith(f"{named}: ")


def test_keys_of_several_providers_are_known_side_by_side() -> None:
    settings = Settings(
        provider="kling", kling_api_key="k" * 32, cometapi_key="c" * 32, kling_access_key="a", kling_secret_key="s" * 32
    )
    names = {
        Settings(provider="cometapi", cometapi_key="c" * 32).account().name: "cometapi",
        Settings(provider="kling", kling_access_key="a", kling_secret_key="s" * 32).account().name: "kling",
        settings.account().name: "kling",
    }
    for name, provider in names.items():
        account = settings.account_of(provider=provider, account=name, base_url="https://host", dialect="legacy")
        assert account is not None
        assert (account.name, account.base_url) == (name, "https://host")
    assert settings.account_of(provider="kling", account="kling:0", base_url="https://h", dialect="legacy") is None
