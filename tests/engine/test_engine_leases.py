from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kling_flows.engine import leases
from kling_flows.engine.leases import LeaseKeeper
from kling_flows.ledger import Ledger, State, sqlite

from ..ledger.make import lease, task, to, url_of
from .rig import until

EXPIRY = 0.5


@pytest.fixture(autouse=True)
def quick_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", EXPIRY)
    monkeypatch.setattr(leases, "_COUNTED_SECONDS", 0.4 * EXPIRY)
    monkeypatch.setattr(leases, "_HELD_SECONDS", 0.05)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(url_of(tmp_path / "ledger.db")) as opened:
        yield opened


async def _beat(ledger: Ledger, runner_id: str) -> int | None:
    return next((found.beat for found in await ledger.read_leases() if found.runner_id == runner_id), None)


async def test_a_lease_is_renewed_while_it_is_held_and_ended_afterwards(ledger: Ledger, tmp_path: Path) -> None:
    keeper = LeaseKeeper(ledger, tmp_path)
    lock_file = tmp_path / "runners" / f"{keeper.runner_id}.lock"
    async with keeper.held():
        assert lock_file.exists()
        await ledger.create(task("t"), runner_id=keeper.runner_id)

        async def renewed() -> bool:
            return (await _beat(ledger, keeper.runner_id) or 0) >= 3

        await until(renewed)
        assert not keeper.lost.is_set()
    assert await ledger.read_leases() == []
    assert not lock_file.exists()
    assert (await ledger.claimable_from()) == 0.0


async def test_living_runners_leave_each_other_alone(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 15.0)
    keepers = [LeaseKeeper(ledger, tmp_path) for _ in range(3)]
    async with AsyncExitStack() as stack:
        for keeper in keepers:
            await stack.enter_async_context(keeper.held())

        async def all_renewed() -> bool:
            return all([(await _beat(ledger, keeper.runner_id) or 0) >= 5 for keeper in keepers])

        await until(all_renewed)
        assert not any(keeper.lost.is_set() for keeper in keepers)
        assert len(await ledger.read_leases()) == 3


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """A lock file as of a runner that lives, or is stopped."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def test_a_peer_whose_lock_is_free_is_dead_at_once(ledger: Ledger, tmp_path: Path) -> None:
    lock_file = tmp_path / "dead.lock"
    lock_file.touch()
    await ledger.open_lease(lease("run-dead", lock_file=str(lock_file)))
    await ledger.create(task("t"), runner_id="run-dead")
    assert await LeaseKeeper(ledger, tmp_path).free_dead_peers() == 1
    assert await ledger.read_leases() == []
    assert not lock_file.exists()


async def test_a_lock_says_nothing_of_a_peer_on_another_machine(ledger: Ledger, tmp_path: Path) -> None:
    lock_file = tmp_path / "shared.lock"
    lock_file.touch()
    await ledger.open_lease(lease("run-far", host="host/1/another-machine", lock_file=str(lock_file)))
    await LeaseKeeper(ledger, tmp_path).free_dead_peers()
    assert await _beat(ledger, "run-far") == 0


async def test_a_peer_whose_beat_stands_still_is_dead_after_a_while(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.open_lease(lease("run-stopped", lock_file=str(tmp_path / "stopped.lock")))
    await ledger.open_lease(lease("run-elsewhere", lock_file="/another/machine/elsewhere.lock"))
    for n, runner in enumerate(("run-stopped", "run-elsewhere")):
        await ledger.create(task(f"t-{n}"), runner_id=runner)
    keeper = LeaseKeeper(ledger, tmp_path)
    with _locked(tmp_path / "stopped.lock"):
        began = asyncio.get_running_loop().time()
        assert await keeper.free_dead_peers() == 0
        freed = 0
        while freed < 2:
            freed += await keeper.free_dead_peers()
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - began >= EXPIRY
    assert await ledger.read_leases() == []


async def test_a_peer_that_renews_lives_however_often_it_is_looked_at(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.open_lease(lease("run-far", lock_file="/another/machine/far.lock"))
    keeper = LeaseKeeper(ledger, tmp_path)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() - began < 2 * EXPIRY:
        await ledger.renew_lease("run-far")
        assert await keeper.free_dead_peers() == 0
        await asyncio.sleep(0.05)
    assert await _beat(ledger, "run-far") is not None


async def test_peers_are_not_judged_by_a_runner_that_could_not_look_itself(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: clock))
    await ledger.open_lease(lease("run-far", lock_file="/another/machine/far.lock"))
    keeper = LeaseKeeper(ledger, tmp_path)
    assert await keeper.free_dead_peers() == 0
    # The ledger was locked for all of them, or the whole machine was stopped.
    clock += 60.0
    assert await keeper.free_dead_peers() == 0
    assert await _beat(ledger, "run-far") is not None
    # Who still stands still when it is looked at again and again is dead.
    for _ in range(3):
        clock += 60.0
        await keeper.free_dead_peers()
    assert await _beat(ledger, "run-far") is None


async def test_who_was_judged_dead_finds_out_and_takes_nothing_more(ledger: Ledger, tmp_path: Path) -> None:
    keeper = LeaseKeeper(ledger, tmp_path)
    async with keeper.held():
        await ledger.create(task("t"), runner_id=keeper.runner_id)
        await ledger.end_lease(keeper.runner_id)
        async with asyncio.timeout(60):
            await keeper.lost.wait()
        assert await ledger.claim(keeper.runner_id, 10) == []
    assert await ledger.claimable_from() == 0.0


async def test_a_watched_task_that_is_no_longer_held_is_reported(ledger: Ledger, tmp_path: Path) -> None:
    keeper = LeaseKeeper(ledger, tmp_path)
    lost = {name: asyncio.Event() for name in ("cancelled", "kept")}
    async with keeper.held():
        for name in lost:
            await ledger.create(task(name), runner_id=keeper.runner_id)
        with keeper.watching("cancelled", lost["cancelled"].set), keeper.watching("kept", lost["kept"].set):
            await ledger.advance("cancelled", to(State.CANCELLED))
            async with asyncio.timeout(60):
                await lost["cancelled"].wait()
        assert not lost["kept"].is_set()


async def test_whoever_watches_a_task_anew_is_told_although_the_one_before_has_ended(
    ledger: Ledger, tmp_path: Path
) -> None:
    keeper = LeaseKeeper(ledger, tmp_path)
    lost = {name: asyncio.Event() for name in ("before", "anew")}
    async with keeper.held():
        await ledger.create(task("t"), runner_id=keeper.runner_id)
        before, anew = (keeper.watching("t", event.set) for event in lost.values())
        with ExitStack() as ending:
            ending.enter_context(before)
            with anew:
                ending.close()
                await ledger.advance("t", to(State.CANCELLED))
                async with asyncio.timeout(60):
                    await lost["anew"].wait()
        assert not lost["before"].is_set()


async def test_a_ledger_that_is_away_for_a_while_does_not_end_the_care(ledger: Ledger, tmp_path: Path) -> None:
    keeper = LeaseKeeper(ledger, tmp_path)
    async with keeper.held():
        connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        before = await _beat(ledger, keeper.runner_id)
        # Long enough for a renewal to have failed.
        await asyncio.sleep(0.5)
        assert await _beat(ledger, keeper.runner_id) == before
        connection.close()

        async def renewed() -> bool:
            return (await _beat(ledger, keeper.runner_id) or 0) > (before or 0) + 1

        await until(renewed)


async def test_a_lock_file_that_cannot_be_removed_does_not_end_the_care(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.1)
    keeper = LeaseKeeper(ledger, tmp_path)
    (tmp_path / "folder.lock").mkdir()
    await ledger.open_lease(lease("run-odd", lock_file=str(tmp_path / "folder.lock")))
    async with keeper.held():

        async def freed() -> bool:
            return await _beat(ledger, "run-odd") is None

        await until(freed)
        before = await _beat(ledger, keeper.runner_id)

        async def renewed() -> bool:
            return (await _beat(ledger, keeper.runner_id) or 0) > (before or 0) + 1

        await until(renewed)
