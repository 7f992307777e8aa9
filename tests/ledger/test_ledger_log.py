from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import event

from kling_flows.errors import LeaseLost, LedgerUnavailable, VideoTaskExists
from kling_flows.ledger import Ledger, State, sqlite

from .conftest import OpenLedger
from .make import lease, task, to, url_of

ROOT = Path(__file__).parents[2]

#: Opens a fresh ledger at the same time as its sibling, and fills it.
WRITER = """
import asyncio, sys
from kling_flows.ledger import Ledger, State
from tests.ledger.make import task, to

async def main(url, name):
    sys.stdin.readline()
    async with await Ledger.open(url) as ledger:
        async def one(n):
            await ledger.create(task(f"{name}-{n}"))
            await ledger.advance(f"{name}-{n}", to(State.SUBMITTING))
        await asyncio.gather(*(one(n) for n in range(60)))

asyncio.run(main(*sys.argv[1:]))
"""


async def _log(ledger: Ledger) -> list[tuple[int, str, int]]:
    return [(event.position, event.task.id, event.task.revision) for event in await ledger.read_events(0, 10_000)]


def _assert_whole(log: list[tuple[int, str, int]]) -> None:
    assert [position for position, _, _ in log] == list(range(1, len(log) + 1))
    revisions: dict[str, int] = {}
    for _, name, revision in log:
        assert revision == revisions.get(name, 0) + 1
        revisions[name] = revision


async def test_events_of_many_writers_are_in_one_order(ledger: Ledger, open_ledger: OpenLedger) -> None:
    other = await open_ledger()
    await ledger.create(task("shared"))

    async def write(which: Ledger, name: str) -> None:
        await which.create(task(name))
        await which.advance("shared", lambda before: before.model_copy(update={"labels": {"last": name}}))
        await which.advance(name, to(State.SUBMITTING))

    await asyncio.gather(*(write((ledger, other)[n % 2], f"t-{n}") for n in range(100)))
    log = await _log(ledger)
    assert len(log) == 301
    _assert_whole(log)
    assert log == await _log(other)
    assert (await ledger.get("shared")).revision == 101


async def test_two_processes_share_a_ledger_from_its_first_moment(fresh_url: str) -> None:
    children = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-W", "error", "-c", WRITER, fresh_url, name, cwd=ROOT, stdin=asyncio.subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
    for child in children:
        await child.communicate()
        assert child.returncode == 0
    async with await Ledger.open(fresh_url) as ledger:
        log = await _log(ledger)
    assert len(log) == 240
    _assert_whole(log)


async def test_events_are_read_in_pages(ledger: Ledger) -> None:
    assert (await ledger.oldest(), await ledger.head()) == (0, 0)
    for n in range(5):
        await ledger.create(task(f"t-{n}"))
    assert (await ledger.oldest(), await ledger.head()) == (1, 5)
    pages = [await ledger.read_events(after, 2) for after in (0, 2, 4, 5)]
    assert [[event.position for event in page] for page in pages] == [[1, 2], [3, 4], [5], []]


class _Held:
    """Keeps a ledger's writer busy, so that what is written meanwhile comes to wait together."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._busy = threading.Event()
        self._go_on = threading.Event()

    async def __aenter__(self) -> None:
        await self._ledger.create(task("gate"))

        def wait(before: object) -> object:
            self._busy.set()
            assert self._go_on.wait(20)
            return before

        self._waiting = asyncio.create_task(self._ledger.advance("gate", wait))  # type: ignore[arg-type]
        assert await asyncio.to_thread(self._busy.wait, 20)

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)
        self._go_on.set()
        await self._waiting


async def test_writes_that_wait_share_one_commit(ledger: Ledger) -> None:
    commits: list[object] = []
    async with _Held(ledger):
        writer = ledger._backend._writer  # type: ignore[attr-defined]
        event.listen(getattr(writer, "sync_engine", writer), "commit", commits.append)
        creating = [asyncio.create_task(ledger.create(task(f"t-{n}"))) for n in range(50)]
    await asyncio.gather(*creating)
    # The one that was held back, and one for all that waited.
    assert len(commits) == 2


async def test_a_write_that_fails_does_not_harm_those_it_shares_a_commit_with(ledger: Ledger) -> None:
    def broken(before: object) -> object:
        raise RuntimeError("a bug")

    async with _Held(ledger):
        creating = [asyncio.create_task(ledger.create(task(f"t-{n}"))) for n in range(10)]
        failing = [
            asyncio.create_task(ledger.create(task("gate"))),
            asyncio.create_task(ledger.advance("gate", broken)),  # type: ignore[arg-type]
            asyncio.create_task(ledger.advance("gate", to(State.SUCCEEDED))),
        ]
        late = asyncio.create_task(ledger.advance("t-3", to(State.SUBMITTING)))
    assert [made.revision for made in await asyncio.gather(*creating)] == [1] * 10
    assert (await late).state is State.SUBMITTING
    outcomes = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [VideoTaskExists, RuntimeError, ValueError]
    log = await _log(ledger)
    assert len(log) == 12
    _assert_whole(log)


async def test_a_caller_that_leaves_does_not_undo_its_write(ledger: Ledger) -> None:
    async with _Held(ledger):
        leaving = asyncio.create_task(ledger.create(task("t")))
        staying = asyncio.create_task(ledger.create(task("u")))
        await asyncio.sleep(0)
        leaving.cancel()
    await staying
    assert leaving.cancelled()
    assert (await ledger.get("t")).revision == 1


async def test_a_commit_wakes_whoever_waits_for_one(ledger: Ledger, open_ledger: OpenLedger) -> None:
    other = await open_ledger()
    for reader in (ledger, other):
        signal = reader.changes()
        waiting = asyncio.create_task(signal.wait(20))
        await ledger.create(task(f"t-{id(reader)}"))
        assert await waiting
        # What was committed after the signal was taken is not slept through either.
        assert await signal.wait(0)


async def test_a_signal_waits_in_vain_while_nobody_commits(ledger: Ledger) -> None:
    # The first look of a ledger that was just opened may wake once for nothing.
    while await ledger.changes().wait(0.1):
        pass


async def test_commits_are_seen_again_after_the_file_could_not_be_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def fail(_: object) -> int:
        failed.set()
        raise sqlite3.OperationalError("disk I/O error")

    async with await Ledger.open(url_of(path)) as ledger, await Ledger.open(url_of(path)) as other:
        with monkeypatch.context() as patch:
            patch.setattr(sqlite, "_data_version", fail)
            assert await asyncio.to_thread(failed.wait, 20)
        signal = ledger.changes()
        await other.create(task("t"))
        assert await signal.wait(20)


async def test_writes_are_finished_before_a_ledger_closes(url: str) -> None:
    ledger = await Ledger.open(url)
    creating = [asyncio.create_task(ledger.create(task(f"t-{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await ledger.close()
    assert len(await asyncio.gather(*creating)) == 20


async def test_a_closed_ledger_takes_no_write(url: str) -> None:
    ledger = await Ledger.open(url)
    await ledger.close()
    with pytest.raises(LedgerUnavailable):
        async with asyncio.timeout(5):
            await ledger.create(task("t"))


async def test_durations_are_learned_with_the_state_they_belong_to(ledger: Ledger) -> None:
    await ledger.open_lease(lease("r1"))
    for n, seconds in enumerate((10.0, 20.0)):
        await ledger.create(task(f"t-{n}", state=State.PROCESSING), runner_id="r1")
        await ledger.advance_and_learn(f"t-{n}", to(State.ARCHIVING), runner_id="r1", key="k", seconds=seconds)
    assert await ledger.read_durations() == {"k": 15.0}
    with pytest.raises(LeaseLost):
        await ledger.advance_and_learn("t-0", to(State.SUCCEEDED), runner_id="r2", key="k", seconds=1000.0)
    assert await ledger.read_durations() == {"k": 15.0}


async def test_the_newest_duration_never_counts_for_less_than_a_fifth(ledger: Ledger) -> None:
    await ledger.open_lease(lease("r1"))
    for n in range(20):
        await ledger.create(task(f"t-{n}", state=State.PROCESSING), runner_id="r1")
        seconds = 10.0 if n < 19 else 20.0
        await ledger.advance_and_learn(f"t-{n}", to(State.ARCHIVING), runner_id="r1", key="k", seconds=seconds)
    assert (await ledger.read_durations())["k"] == pytest.approx(12.0)


async def test_of_facts_the_last_word_is_kept(ledger: Ledger, open_ledger: OpenLedger) -> None:
    await ledger.write_meta("lookup/account", "honoured")
    await ledger.write_meta("lookup/account", "not-honoured")
    assert (await (await open_ledger()).read_meta())["lookup/account"] == "not-honoured"
