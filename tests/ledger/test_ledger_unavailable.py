from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import Ledger, State, sqlite

from .make import task, to, url_of

BUSY = 0.3


@pytest.fixture
async def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", BUSY)
    async with await Ledger.open(url_of(path)) as opened:
        yield opened


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.close()


async def test_a_ledger_that_is_locked_for_too_long_says_so_and_works_again(ledger: Ledger, path: Path) -> None:
    with _locked(path):
        began = time.monotonic()
        with pytest.raises(LedgerUnavailable) as caught:
            await ledger.create(task("t"))
        assert time.monotonic() - began >= BUSY * 0.9
        assert "locked" in caught.value.message
    assert (await ledger.create(task("t"))).revision == 1


async def test_all_who_wait_for_a_locked_ledger_are_told_together(ledger: Ledger, path: Path) -> None:
    with _locked(path):
        began = time.monotonic()
        outcomes = await asyncio.gather(*(ledger.create(task(f"t-{n}")) for n in range(60)), return_exceptions=True)
        took = time.monotonic() - began
    assert {type(outcome) for outcome in outcomes} == {LedgerUnavailable}
    # One wait for the first, one for those that came meanwhile; not one for each.
    assert took < 30 * BUSY
    assert await ledger.head() == 0


async def test_a_short_lock_is_waited_for(ledger: Ledger, path: Path) -> None:
    with _locked(path):
        creating = asyncio.create_task(ledger.create(task("t")))
        await asyncio.sleep(BUSY / 5)
    assert (await creating).revision == 1


async def test_a_locked_ledger_can_be_read(ledger: Ledger, path: Path) -> None:
    await ledger.create(task("t"))
    with _locked(path):
        assert (await ledger.get("t")).id == "t"


async def test_a_write_that_failed_half_way_has_written_nothing(ledger: Ledger, path: Path) -> None:
    await ledger.create(task("t"))
    connection = sqlite3.connect(path)
    connection.execute("CREATE TRIGGER full BEFORE INSERT ON events BEGIN SELECT RAISE(FAIL, 'disk full'); END")
    connection.commit()
    with pytest.raises(LedgerUnavailable):
        await ledger.advance("t", to(State.SUBMITTING))
    assert (await ledger.get("t")).state is State.QUEUED
    connection.execute("DROP TRIGGER full")
    connection.commit()
    connection.close()
    assert (await ledger.advance("t", to(State.SUBMITTING))).revision == 2


async def test_a_check_finds_out_that_nothing_can_be_written_and_that_it_can_again(ledger: Ledger, path: Path) -> None:
    await ledger.check()
    with _locked(path):
        # Nothing is written for the sake of a check alone.
        await ledger.check()
        with pytest.raises(LedgerUnavailable):
            await ledger.create(task("t"))
        with pytest.raises(LedgerUnavailable):
            await ledger.check()
    await ledger.check()
    await ledger.check()


async def test_a_bug_in_a_write_says_nothing_of_the_ledger(ledger: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        await ledger.advance((await ledger.create(task("t"))).id, lambda before: 1 // 0)  # type: ignore[return-value]
    await ledger.check()
    assert "written_again" not in await ledger.read_meta()


async def test_a_ledger_that_is_locked_when_it_is_opened_is_no_matter_of_settings(ledger: Ledger, path: Path) -> None:
    with _locked(path), pytest.raises(LedgerUnavailable):
        await Ledger.open(url_of(path))


async def test_a_closed_ledger_is_unavailable_for_those_who_come_late(path: Path) -> None:
    async with await Ledger.open(url_of(path)) as ledger:
        await ledger.create(task("t"))
    with pytest.raises(LedgerUnavailable):
        await ledger.get("t")
    with pytest.raises(LedgerUnavailable):
        await ledger.advance("t", to(State.SUBMITTING))
