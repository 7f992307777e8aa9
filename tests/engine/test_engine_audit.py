"""An audit finds what the provider has made and the ledger does not know, and takes it in once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from kling_flows.engine import audit as audit_module
from kling_flows.engine.audit import AuditReport, Finding, audit
from kling_flows.engine.cancel import cancelled
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import error_record
from kling_flows.errors import ConfigurationError, VideoTaskFailed
from kling_flows.ledger import LateVideo, Ledger, State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import FAIL_MARK, STUCK_MARK
from kling_flows.settings import Settings
from kling_flows.upstream import Account, ApiKeyCredentials, Provider, TextToVideoRequest, UpstreamClient

from ..cli.command import run
from ..ledger.make import upstream
from .rig import OpenEngine, assert_archived, assert_video_kept, creates, queue, until_state


@pytest.fixture(autouse=True)
def quick_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "_PAGE_SECONDS", 0.0)


async def _audit(engine: Engine, **how: Any) -> AuditReport:
    since = datetime.now(UTC) - timedelta(days=1)
    return await audit(engine.ledger, engine.client, since=since, tenant="default", **how)


def _findings(report: AuditReport) -> list[tuple[Finding, bool]]:
    return [(item.finding, item.adopted) for item in report.items]


async def _order(engine: Engine, external_id: str, prompt: str = "a cup") -> str:
    """An upstream task that no ledger's task has asked for."""
    return (await engine.client.create(TextToVideoRequest(prompt=prompt), external_id)).task_id


async def _carry_on(engine: Engine, name: str) -> VideoTask:
    await engine.ledger.claim_one(name, engine.runner_id)
    return await carry(engine, name, None)


async def test_an_account_without_surprises_has_none(engine: Engine) -> None:
    await queue(engine, "done")
    await carry(engine, "done", None)
    await queue(engine, "failed", prompt=f"a cup {FAIL_MARK}")
    await carry(engine, "failed", None)
    await queue(engine, "waits", prompt=STUCK_MARK)
    carrying = asyncio.create_task(carry(engine, "waits", None))
    await until_state(engine, State.PROCESSING, name="waits")
    report = await _audit(engine)
    assert (report.looked_at, report.items) == (3, ())
    carrying.cancel()
    await asyncio.wait({carrying})


@pytest.mark.parametrize("dialect", ["legacy", "standard"])
async def test_a_task_that_the_ledger_has_lost_is_taken_in_once(
    open_engine: OpenEngine, sandbox: SandboxServer, dialect: str
) -> None:
    engine = await open_engine(dialect=dialect)
    upstream_id = await _order(engine, f"kf-{engine.ledger.ledger_id}-vt-before-the-backup")
    report = await _audit(engine)
    assert _findings(report) == [(Finding.UNKNOWN, False)]
    assert len(report.amiss) == 1
    report = await _audit(engine, adopt=True)
    assert _findings(report) == [(Finding.UNKNOWN, True)]
    assert report.amiss == ()
    task = await engine.ledger.get("vt-before-the-backup")
    assert (task.state, task.labels) == (State.SUBMITTED, {"adopted": "true"})
    # Twice is the same as once.
    assert _findings(await _audit(engine, adopt=True)) == []
    ended = await _carry_on(engine, task.id)
    assert_archived(ended)
    assert ended.upstream is not None
    assert ended.upstream.task_id == upstream_id
    assert creates(sandbox) == 1
    assert _findings(await _audit(engine)) == []


async def test_what_is_not_ours_is_only_taken_in_on_demand(engine: Engine) -> None:
    await _order(engine, "kf-0badcafe-theirs")
    await _order(engine, "somebody-s-own")
    report = await _audit(engine, adopt=True)
    assert _findings(report) == [(Finding.FOREIGN, False)] * 2
    assert report.amiss == ()
    report = await _audit(engine, adopt=True, everything=True)
    assert _findings(report) == [(Finding.FOREIGN, True)] * 2
    assert _findings(await _audit(engine, adopt=True, everything=True)) == []
    for item in report.items:
        assert_archived(await _carry_on(engine, item.video_task))


async def _unnoticed(engine: Engine, state: State) -> str:
    """A task that does not know what was made for it."""
    await queue(engine)
    await engine.ledger.advance("t", _intended(engine))
    upstream_id = await _order(engine, f"kf-{engine.ledger.ledger_id}-t")

    def end(before: VideoTask) -> VideoTask:
        if state is State.CANCELLED:
            return cancelled(before, "why", LateVideo.DISCARD)
        error = error_record(VideoTaskFailed("as a person thought"))
        return before.model_copy(update={"state": state, "error": error})

    await engine.ledger.advance("t", end)
    return upstream_id


def _intended(engine: Engine) -> Callable[[VideoTask], VideoTask]:
    account = engine.client.account
    record = upstream(
        "t",
        base_url=account.base_url,
        account=account.name,
        external_task_id=f"kf-{engine.ledger.ledger_id}-t",
        outcome_unknown=True,
    )
    return lambda before: before.model_copy(update={"state": State.SUBMITTING, "upstream": record})


@pytest.mark.parametrize("state", [State.FAILED, State.CANCELLED, State.UNRESOLVED])
async def test_a_task_is_told_what_was_made_for_it(engine: Engine, state: State) -> None:
    upstream_id = await _unnoticed(engine, state)
    assert _findings(await _audit(engine)) == [(Finding.UNNOTICED, False)]
    assert _findings(await _audit(engine, adopt=True)) == [(Finding.UNNOTICED, True)]
    assert _findings(await _audit(engine, adopt=True)) == []
    ended = await _carry_on(engine, "t")
    assert ended.upstream is not None
    assert (ended.upstream.task_id, ended.upstream.outcome_unknown) == (upstream_id, False)
    if state is State.UNRESOLVED:
        assert_archived(ended)
    else:
        assert_video_kept(ended, state)


async def test_a_request_that_is_under_way_is_left_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await queue(engine)
    await engine.ledger.advance("t", _intended(engine))
    await _order(engine, f"kf-{engine.ledger.ledger_id}-t")
    assert _findings(await _audit(engine, adopt=True)) == []
    monkeypatch.setattr(audit_module, "_GRACE_SECONDS", 0.0)
    assert _findings(await _audit(engine, adopt=True)) == [(Finding.UNNOTICED, True)]
    assert (await engine.ledger.get("t")).state is State.SUBMITTED
    assert_archived(await _carry_on(engine, "t"))


@pytest.mark.parametrize("discarded", [False, True])
async def test_a_video_that_was_paid_and_forgotten_is_archived(engine: Engine, discarded: bool) -> None:
    await queue(engine)
    done = await carry(engine, "t", None)
    # As it would be if it had ended in another way after it was paid.
    lost = done.model_copy(update={"id": "u", "state": State.ARCHIVING, "artifacts": ()})
    await engine.ledger.create(lost)

    def end(before: VideoTask) -> VideoTask:
        if discarded:
            return cancelled(before, "")
        error = error_record(VideoTaskFailed("given up"))
        return before.model_copy(update={"state": State.FAILED, "error": error})

    await engine.ledger.advance("u", end)
    finding = Finding.DISCARDED if discarded else Finding.NOT_ARCHIVED
    report = await _audit(engine, adopt=True)
    assert _findings(report) == [(finding, not discarded)]
    assert report.amiss == ()
    if discarded:
        assert _findings(await _audit(engine, adopt=True, everything=True)) == [(finding, True)]
    assert_video_kept(await _carry_on(engine, "u"), State.CANCELLED if discarded else State.FAILED)
    assert _findings(await _audit(engine)) == []


async def test_what_is_older_is_passed_over(engine: Engine) -> None:
    await _order(engine, f"kf-{engine.ledger.ledger_id}-vt-lost")
    since = datetime.now(UTC) + timedelta(seconds=1)
    report = await audit(engine.ledger, engine.client, since=since, tenant="default")
    assert (report.looked_at, report.items) == (0, ())


async def test_many_pages_are_read_to_their_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "MAX_PAGE_SIZE", 2)
    for number in range(5):
        await _order(engine, f"kf-{engine.ledger.ledger_id}-vt-{number}")
    assert _findings(await _audit(engine)) == [(Finding.UNKNOWN, False)] * 5


async def test_a_provider_without_a_list_cannot_be_audited(engine: Engine) -> None:
    account = Account.of(Provider.COMETAPI, ApiKeyCredentials(SecretStr("c" * 32)))
    with pytest.raises(ConfigurationError, match="no list"):
        await audit(engine.ledger, UpstreamClient(account), since=datetime.now(UTC), tenant="default")


async def test_the_command_says_what_is_amiss_and_takes_it_in(sandbox: SandboxServer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    async with await Ledger.open(url) as ledger:
        name = f"kf-{ledger.ledger_id}-vt-lost"
    sandbox_account = Settings(provider="sandbox", upstream_url=sandbox.url).account()
    async with UpstreamClient(sandbox_account) as client:
        await client.create(TextToVideoRequest(prompt="a cup"), name)
    flags = ("--provider", "sandbox", "--upstream-url", sandbox.url, "--ledger-url", url)
    shown = await run("audit", *flags)
    assert shown.code == 7
    assert name in shown.out
    assert "UNKNOWN" in shown.out
    assert "1 amiss" in shown.err
    taken = await run("audit", "--json", "--adopt", "--since", "2h", *flags)
    assert taken.code == 0
    assert taken.json["amiss"] == 0
    assert [(item["finding"], item["adopted"]) for item in taken.json["items"]] == [("UNKNOWN", True)]
    again = await run("audit", "--json", *flags)
    assert (again.code, again.json["items"]) == (0, [])
    assert (await run("audit", "--since", "yesterday", *flags)).code == 2
    assert (await run("audit", "--everything", *flags)).code == 2
