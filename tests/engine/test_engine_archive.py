"""A download that fails is repeated, and never leads to a second generation."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kling_flows.engine import retries
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.keep import archive
from kling_flows.engine.submit import submit
from kling_flows.engine.wait import wait
from kling_flows.errors import ArchiveError
from kling_flows.ledger import State
from kling_flows.sandbox import SandboxServer

from .rig import (
    OpenEngine,
    assert_archived,
    assert_paid_once,
    creates,
    history,
    queue,
    until,
    until_state,
)

DOWNLOAD_FAULTS: dict[str, dict[str, Any]] = {
    "half of it as if it were whole": {"fault": "video_truncated"},
    "shorter than promised": {"fault": "video_wrong_length"},
    "a web page": {"fault": "video_html"},
    "an address that has expired": {"fault": "video_expired", "on": "download"},
    "cut": {"fault": "reset_mid_body", "on": "download"},
    "cut at once": {"fault": "drop_before_accept", "on": "download"},
    "a busy server": {"fault": "http_error", "on": "download", "status": 503},
    "an address that had expired when it was given": {"fault": "video_expired", "on": "get"},
}


@pytest.mark.parametrize("fault", DOWNLOAD_FAULTS.values(), ids=DOWNLOAD_FAULTS)
async def test_a_download_that_fails_is_repeated_and_nothing_is_generated_again(
    engine: Engine, sandbox: SandboxServer, fault: dict[str, Any]
) -> None:
    sandbox.set_faults([{**fault, "times": 2}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 1


async def test_the_record_says_what_is_wrong_with_the_download(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "video_html", "times": 3}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    # Said once, however often it happened.
    (noted,) = [task for task in await history(engine) if task.error is not None]
    assert noted.state is State.ARCHIVING
    assert noted.error is not None
    assert noted.error.reason == "ARCHIVE_FAILED"


async def test_a_video_that_cannot_be_downloaded_is_not_given_up(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "video_truncated"}])
    await queue(engine)
    with pytest.raises(ArchiveError):
        await carry(engine, "t", None)
    stays = await engine.ledger.get("t")
    assert stays.state is State.ARCHIVING
    assert sandbox.stats()["calls"]["download"] == len(retries.RETRY_DELAYS) + 1
    sandbox.set_faults([])
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert creates(sandbox) == 1


async def test_an_address_that_has_expired_is_asked_for_anew(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "video_expired", "on": "download", "times": 1}])
    await queue(engine)
    assert_archived(await carry(engine, "t", None))
    # Within one step: nothing is noted, and nobody waits for a repetition.
    assert [task for task in await history(engine) if task.error is not None] == []


async def test_a_provider_that_cannot_be_asked_for_the_address_is_asked_again(
    engine: Engine, sandbox: SandboxServer
) -> None:
    await queue(engine)
    await submit(engine, "t")
    await wait(engine, "t")
    sandbox.set_faults(
        [{"fault": "video_html", "times": 1}, {"fault": "http_error", "on": "get", "code": 5000, "times": 2}]
    )
    before = sandbox.stats()["calls"]
    assert_archived(await retries.with_retries(lambda: archive(engine, "t")))
    after = sandbox.stats()["calls"]
    # The first try needs no look; each of the next ones begins with one.
    assert {name: after[name] - before[name] for name in ("get", "download")} == {"get": 3, "download": 2}


async def test_a_storage_that_refuses_is_tried_again(engine: Engine, sandbox: SandboxServer, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "archive"
    shutil.rmtree(folder)
    folder.write_text("in the way")
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))

    async def refused() -> bool:
        return (await engine.ledger.get("t")).error is not None

    await until(refused)
    folder.unlink()
    ended = await carrying
    assert_archived(ended)
    assert creates(sandbox) == 1


async def test_what_is_published_already_is_not_downloaded_again(
    engine: Engine, sandbox: SandboxServer, open_engine: OpenEngine
) -> None:
    await queue(engine)
    ended = await carry(engine, "t", None)
    # As if the process had died before it could write that down.
    again = await engine.ledger.create(
        ended.model_copy(update={"id": "u", "state": State.ARCHIVING, "artifacts": ()}), runner_id=engine.runner_id
    )
    folder = Path(ended.artifacts[0].uri.removeprefix("file://")).parent
    for suffix in (".mp4", ".json"):
        shutil.copy(folder / f"t{suffix}", folder / f"u{suffix}")
    repeated = await archive(engine, again.id)
    assert repeated.state is State.SUCCEEDED
    assert repeated.artifacts[0].sha256 == ended.artifacts[0].sha256
    assert sandbox.stats()["calls"]["download"] == 1


async def test_another_task_s_file_of_the_same_name_is_not_taken_for_its_own(
    open_engine_on: Callable[..., Any], start_sandbox: Callable[..., SandboxServer], tmp_path: Path
) -> None:
    # Two ledgers, one archive, and an id that the caller chose.
    servers = [start_sandbox() for _ in range(2)]
    ended = []
    for server, name in zip(servers, ("a", "b"), strict=True):
        engine = await open_engine_on(server, state_dir=tmp_path / name, archive=str(tmp_path / "shared"))
        await queue(engine, "same")
        ended.append(await carry(engine, "same", None))
        assert_archived(ended[-1])
    assert [server.stats()["calls"]["download"] for server in servers] == [1, 1]


async def test_only_so_many_are_copied_at_a_time(open_engine: OpenEngine, sandbox: SandboxServer) -> None:
    engine = await open_engine(archive_concurrency=2)
    sandbox.set_faults([{"fault": "hang", "on": "download", "times": 2}])
    names = [f"t-{n}" for n in range(4)]
    for name in names:
        await queue(engine, name)
    carrying = [asyncio.create_task(carry(engine, name, None)) for name in names]
    for name in names:
        await until_state(engine, State.ARCHIVING, name=name)
    await until(lambda: sandbox.stats()["calls"]["download"] == 2)
    await asyncio.sleep(0.3)
    assert sandbox.stats()["calls"]["download"] == 2
    for task in carrying:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait(carrying)
