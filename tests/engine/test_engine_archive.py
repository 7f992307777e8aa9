"""A download that fails is repeated, and never leads to a second generation."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from kling_flows.engine import keep, retries
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.failures import ending
from kling_flows.engine.gate import Gate
from kling_flows.engine.keep import archive
from kling_flows.engine.submit import submit
from kling_flows.engine.wait import wait
from kling_flows.errors import ArchiveError, VideoTaskLost
from kling_flows.ledger import State, VideoTask
from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import UpstreamNotFound, WatermarkInfo

from .rig import (
    OpenEngine,
    assert_archived,
    assert_paid_once,
    creates,
    history,
    new_task,
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


async def _waits_for_its_video(engine: Engine, name: str = "t", **request: Any) -> None:
    """A task of which the provider says that it has succeeded."""
    new = new_task(name)
    await engine.ledger.create(
        new.model_copy(update={"request": new.request.model_copy(update=request)}), runner_id=engine.runner_id
    )
    await submit(engine, name)
    assert (await wait(engine, name)).state is State.ARCHIVING


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "video_expired", "on": "download"},
        {"fault": "succeed_without_url", "on": "get"},
        {"fault": "http_error", "on": "get", "code": 1203},
    ],
    ids=["its address has expired", "no address is shown", "the task is gone"],
)
async def test_a_video_that_is_gone_after_its_time_is_lost(
    open_engine: OpenEngine, sandbox: SandboxServer, fault: dict[str, Any]
) -> None:
    engine = await open_engine(result_retention=2.0)
    await _waits_for_its_video(engine)
    engine.ended.clear()
    sandbox.set_faults([fault])
    with pytest.raises((ArchiveError, UpstreamNotFound)):
        await archive(engine, "t")
    early = await engine.ledger.get("t")
    assert early.state is State.ARCHIVING
    assert early.error is not None
    await until(lambda: early.upstream and early.upstream.end_time and age(early.upstream.end_time) > 2.0)
    lost = await archive(engine, "t")
    assert lost.state is State.LOST
    assert isinstance(ending(lost), VideoTaskLost)
    assert lost.error is not None
    assert lost.error.metadata["upstream_task_id"] == sandbox.charges()[0]["task_id"]
    assert lost.upstream is not None
    assert lost.upstream.task_id == sandbox.charges()[0]["task_id"]
    assert await carry(engine, "t", None) == lost


async def test_a_storage_that_refuses_never_loses_a_video(
    open_engine: OpenEngine, sandbox: SandboxServer, tmp_path: Path
) -> None:
    engine = await open_engine(result_retention=0.001)
    await _waits_for_its_video(engine)
    folder = tmp_path / "state" / "archive"
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.raises(ArchiveError):
        await archive(engine, "t")
    assert (await engine.ledger.get("t")).state is State.ARCHIVING
    folder.unlink()
    assert_archived(await archive(engine, "t"))


async def test_a_success_that_never_shows_a_video_is_asked_for_until_it_does(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kling_flows.engine.polling.URLLESS_LOOKS", 3)
    sandbox.set_faults([{"fault": "succeed_without_url", "on": "get"}])
    await queue(engine)
    carrying = asyncio.create_task(carry(engine, "t", None))
    archiving = await until_state(engine, State.ARCHIVING)
    assert archiving.upstream is not None
    assert archiving.upstream.settled_units
    sandbox.set_faults([])
    assert_archived(await carrying)


async def test_a_watermarked_copy_is_archived_beside_the_video(engine: Engine, sandbox: SandboxServer) -> None:
    await _waits_for_its_video(engine, watermark_info=WatermarkInfo(enabled=True))
    ended = await archive(engine, "t")
    assert ended.state is State.SUCCEEDED
    assert [artifact.kind for artifact in ended.artifacts] == ["VIDEO", "WATERMARKED_VIDEO"]
    assert len({artifact.uri for artifact in ended.artifacts}) == 2
    for artifact in ended.artifacts:
        stored = Path(unquote(urlsplit(artifact.uri).path)).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == artifact.sha256
    # The video itself is shown before its copy is there.
    assert [len(task.artifacts) for task in await history(engine) if task.state is State.ARCHIVING][-1] == 1
    assert sandbox.stats()["calls"]["download"] == 2


async def test_a_watermarked_copy_that_never_comes_does_not_hold_up_the_video(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep, "_WATERMARK_SECONDS", 0.01)
    # Ordered without one, as a provider that ignores the wish.
    await _waits_for_its_video(engine)

    def wish(task: VideoTask) -> VideoTask:
        request = task.request.model_copy(update={"watermark_info": WatermarkInfo(enabled=True)})
        return task.model_copy(update={"request": request})

    await engine.ledger.advance("t", wish)
    ended = await archive(engine, "t")
    assert_archived(ended)
    assert ended.upstream is not None
    assert "watermarked" in ended.upstream.status_message


async def test_what_ended_first_is_archived_first() -> None:
    gate = Gate(1)
    entered: list[float] = []

    async def enter(key: float) -> None:
        async with gate.entered(key):
            entered.append(key)
            await asyncio.sleep(0)

    async with asyncio.timeout(5):
        async with gate.entered(0.0):
            waiting = [asyncio.create_task(enter(key)) for key in (3.0, 1.0, 2.0)]
            gone = asyncio.create_task(enter(0.5))
            await asyncio.sleep(0)
            gone.cancel()
        await asyncio.wait(waiting)
    assert entered == [1.0, 2.0, 3.0]


async def test_a_place_that_is_given_to_somebody_who_leaves_is_given_on() -> None:
    gate = Gate(1)
    async with asyncio.timeout(5):
        async with gate.entered(0.0):
            leaves, stays = (asyncio.create_task(_pass(gate, key)) for key in (1.0, 2.0))
            await asyncio.sleep(0)
        # It has its turn already, and does not know it yet.
        leaves.cancel()
        await stays
        assert await asyncio.wait({leaves})
        await _pass(gate, 3.0)


async def _pass(gate: Gate, key: float) -> None:
    async with gate.entered(key):
        pass


def age(when: datetime) -> float:
    return (datetime.now(UTC) - when).total_seconds()
