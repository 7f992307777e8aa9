"""What only a ledger on PostgreSQL has to prove: several processes and machines, and a server that goes away."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, inspect, update

from kling_flows.errors import ConfigurationError, LedgerUnavailable
from kling_flows.ledger import Ledger, State, VideoTask, migrate, postgres_connection, postgres_news
from kling_flows.ledger.address import shown
from kling_flows.ledger.schema import metadata, video_tasks

from .cutting_proxy import cutting_proxy
from .make import lease, task, to, url_of
from .postgres_server import PASSWORD, PostgresServer

ROOT = Path(__file__).parents[2]

#: Writes until it is ended, and says so when it has begun.
WRITER = """
import asyncio, sys
from kling_flows.ledger import Ledger, State
from tests.ledger.make import task, to

async def main(url, name, count):
    async with await Ledger.open(url) as ledger:
        async def one(n):
            await ledger.create(task(f"{name}-{n}"))
            await ledger.advance(f"{name}-{n}", to(State.SUBMITTING))
        for start in range(0, int(count), 20):
            await asyncio.gather(*(one(n) for n in range(start, start + 20)))
            print("written", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""

CLAIMER = """
import asyncio, sys
from kling_flows.ledger import Ledger
from tests.ledger.make import lease

async def main(url, name):
    async with await Ledger.open(url) as ledger:
        await ledger.open_lease(lease(name))
        print("ready", flush=True)
        sys.stdin.readline()
        while taken := await ledger.claim(name, 3):
            print(*(task.id for task in taken), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def _child(script: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, *arguments,
        cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def _line(child: asyncio.subprocess.Process) -> bytes:
    assert child.stdout is not None
    return await child.stdout.readline()


async def _log(ledger: Ledger) -> list[tuple[int, str, int]]:
    return [(event.position, event.task.id, event.task.revision) for event in await ledger.read_events(0, 10_000)]


def _assert_whole(log: list[tuple[int, str, int]]) -> None:
    assert [position for position, _, _ in log] == list(range(1, len(log) + 1))
    revisions: dict[str, int] = {}
    for _, name, revision in log:
        assert revision == revisions.get(name, 0) + 1
        revisions[name] = revision


@pytest.fixture
def address(postgres: PostgresServer, database: str) -> str:
    return postgres.url(database)


def _schema(connection: Connection) -> dict[str, Any]:
    """Tables with what both databases know of them: columns, keys and indexes by name."""
    found = inspect(connection)
    return {
        table: {
            "columns": {
                each["name"]: (each["nullable"], each["type"].python_type) for each in found.get_columns(table)
            },
            "key": found.get_pk_constraint(table)["constrained_columns"],
            "unique": {(each["name"], *each["column_names"]) for each in found.get_unique_constraints(table)},
            "foreign": {each["name"] for each in found.get_foreign_keys(table)},
            "indexes": {
                (each["name"], bool(each["unique"]), *each["column_names"])
                for each in found.get_indexes(table)
                if not each.get("duplicates_constraint")
            },
        }
        for table in found.get_table_names()
    }


async def test_the_same_history_makes_the_same_schema_on_both(address: str, path: Path) -> None:
    engine = create_engine(url_of(path))
    migrate.migrate(engine, shown_url="")
    with engine.connect() as connection:
        on_sqlite = _schema(connection)
    engine.dispose()
    # Which the driver does not know about a table of its own.
    on_sqlite.pop("sqlite_sequence", None)
    async with await Ledger.open(address) as ledger:
        assert await ledger._read(_schema) == on_sqlite
        assert await ledger._read(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []


async def test_a_ledger_of_a_newer_release_is_refused(address: str) -> None:
    async with await Ledger.open(address) as ledger:
        await ledger._write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'").rowcount)
    with pytest.raises(ConfigurationError, match="9999"):
        await Ledger.open(address)


async def test_who_follows_the_log_misses_nothing_of_concurrent_writers(address: str) -> None:
    async with await Ledger.open(address) as ledger:
        writers = [await _child(WRITER, address, name, "100") for name in ("a", "b")]
        seen: list[tuple[int, str, int]] = []
        async with asyncio.timeout(120):
            while len(seen) < 400:
                signal_ = ledger.changes()
                after = seen[-1][0] if seen else 0
                events = await ledger.read_events(after, 50)
                seen += [(event.position, event.task.id, event.task.revision) for event in events]
                if not events:
                    assert await signal_.wait(60)
        for writer in writers:
            await writer.communicate()
            assert writer.returncode == 0
        _assert_whole(seen)
        assert await _log(ledger) == seen


async def test_a_writer_that_is_killed_leaves_nothing_half_done(address: str) -> None:
    writer = await _child(WRITER, address, "a", "10000")
    for _ in range(3):
        assert await _line(writer) == b"written\n"
    writer.kill()
    await writer.communicate()
    async with await Ledger.open(address) as ledger:
        # Nobody has to wait for its turn either.
        await ledger.create(task("after"))
        log = await _log(ledger)
        _assert_whole(log)
        tasks = await ledger.list_tasks(tenant="default")
        newest = {name: revision for _, name, revision in log}
        assert {found.id: found.revision for _, found in tasks} == newest
        assert len(newest) > 60


async def test_claims_of_two_processes_are_exclusive(address: str) -> None:
    async with await Ledger.open(address) as ledger:
        await asyncio.gather(*(ledger.create(task(f"t-{n}")) for n in range(60)))
        claimers = [await _child(CLAIMER, address, name) for name in ("r1", "r2")]
        for claimer in claimers:
            assert await _line(claimer) == b"ready\n"
        outputs = await asyncio.gather(*(claimer.communicate(b"go\n") for claimer in claimers))
        claimed = [output.split() for output, _ in outputs]
        assert sorted(claimed[0] + claimed[1]) == sorted(f"t-{n}".encode() for n in range(60))
        for name, ids in zip(("r1", "r2"), claimed, strict=True):
            assert await ledger.held_by(name) == {each.decode() for each in ids}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "by a crash"])
async def test_a_ledger_goes_on_when_its_server_is_back(postgres: PostgresServer, address: str, how: int) -> None:
    async with await Ledger.open(address) as ledger, await Ledger.open(address) as other:
        await asyncio.gather(ledger.create(task("before")), other.get_many(["x"], tenant="default"))
        await asyncio.to_thread(postgres.stop, how)
        with pytest.raises(LedgerUnavailable):
            await ledger.head()
        waiting = [asyncio.create_task(each.create(task(f"t-{n}"))) for n, each in enumerate((ledger, other) * 10)]
        await asyncio.to_thread(postgres.start)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        written = {each.id for each in outcomes if not isinstance(each, BaseException)}
        assert all(isinstance(each, (VideoTask, LedgerUnavailable)) for each in outcomes), outcomes
        await ledger.create(task("after"))
        log = await _log(other)
        _assert_whole(log)
        # What was answered is there, and what was refused is not.
        assert {name for _, name, _ in log} == {"before", "after"} | written
        # News comes again as well.
        async with asyncio.timeout(60):
            while not await _hears(ledger, other):
                pass


async def _hears(ledger: Ledger, other: Ledger) -> bool:
    heard = ledger.changes_by_others()
    await other.write_meta("x", "y")
    return await heard.wait(1)


@pytest.mark.parametrize("cut", ["before", "after"])
async def test_a_write_whose_commit_got_no_answer_happens_once(
    postgres: PostgresServer, database: str, cut: str
) -> None:
    folder = postgres.folder / f"proxy-{cut}"
    folder.mkdir(exist_ok=True)
    socket = postgres.folder / f".s.PGSQL.{postgres.port}"
    async with cutting_proxy(socket, folder, postgres.port) as proxy:
        url = f"postgresql://kling@/{database}?host={folder}&port={postgres.port}"
        async with await Ledger.open(url) as ledger:
            await ledger.create(task("t"))
            proxy.cut = cut
            assert (await ledger.advance("t", to(State.SUBMITTING))).revision == 2
            assert proxy.cuts == 1
            assert await _log(ledger) == [(1, "t", 1), (2, "t", 2)]


async def test_what_changes_nothing_wakes_nobody(address: str) -> None:
    async with await Ledger.open(address) as ledger, await Ledger.open(address) as other:
        await other.open_lease(lease("r1"))
        await other.create(task("t"))
        await other.advance("t", to(State.FAILED))
        while await ledger.changes().wait(0.3):
            pass
        signal_ = ledger.changes()
        assert await other.claim("r1", 10) == []
        assert await other.claim("r1", 10, account="a", slots=1) == []
        assert (await other.advance("t", lambda before: before)).revision == 2
        assert not await signal_.wait(0.3)


async def test_a_listener_that_lost_its_connection_hears_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_news, "_PULSE_SECONDS", 0.1)
    async with await Ledger.open(address) as ledger, await Ledger.open(address) as other:
        listening = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT 1'"
        end = f"SELECT pg_terminate_backend(pid) FROM ({listening}) AS found"
        async with asyncio.timeout(30):
            while not await other._write(lambda c: len(c.exec_driver_sql(end).all())):
                pass
            while not await _hears(ledger, other):
                pass


async def test_what_is_wrong_with_the_address_is_told_without_the_password(
    postgres: PostgresServer, database: str
) -> None:
    wrong = [
        (postgres.host_url(database, "wr0ng-w0rd"), "password authentication failed"),
        (postgres.host_url("nowhere"), "does not exist"),
        (postgres.host_url(database).replace("kling:", "kling:/"), "address"),
        (postgres.host_url(database) + "?sslmode=wr0ng-w0rd", "address"),
    ]
    for url, reason in wrong:
        with pytest.raises(ConfigurationError, match=reason) as caught:
            await Ledger.open(url)
        assert caught.value.setting == "KLING_FLOWS_LEDGER_URL"
        assert PASSWORD not in str(caught.value)
        assert "wr0ng" not in str(caught.value)


async def test_a_password_may_come_from_the_environment(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    async with await Ledger.open(postgres.host_url(database).replace(f":{PASSWORD}", "")) as ledger:
        assert (await ledger.create(task("t"))).revision == 1
        assert PASSWORD not in repr(vars(ledger))


async def test_a_server_that_does_not_answer_is_no_matter_of_settings() -> None:
    with pytest.raises(LedgerUnavailable) as caught:
        await Ledger.open(f"postgresql://kling:{PASSWORD}@127.0.0.1:1/db")
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h:5432/db", "postgresql://u@h:5432/db"),
        ("postgres://h/db", "postgresql://h/db"),
        ("postgresql+asyncpg://u:p@h/db?password=p", "postgresql://u@h/db"),
        ("postgresql://u:p/p@h/db", "postgresql://…"),
        ("postgresql://u:p?p@h/db", "postgresql://…"),
        ("postgresql:///db?host=/run", "postgresql:///db"),
    ],
)
def test_an_address_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


async def test_a_turn_that_does_not_come_is_told_and_nothing_was_written(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_connection, "_SESSION", {**postgres_connection._SESSION, "lock_timeout": "300ms"})
    monkeypatch.setattr("kling_flows.ledger.postgres_writer.WAIT_SECONDS", 0.0)
    async with await Ledger.open(address) as ledger, await Ledger.open(address) as other:
        await ledger.create(task("t"))
        # The operation of the one that has the turn; it blocks its own thread only.
        holding, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def hold(connection: Connection) -> int:
            loop.call_soon_threadsafe(holding.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)
            return connection.execute(update(video_tasks).values(priority=1)).rowcount

        held = asyncio.create_task(other._write(hold))
        await holding.wait()
        with pytest.raises(LedgerUnavailable, match="lock timeout"):
            await ledger.create(task("u"))
        assert await ledger.head() == 1
        with pytest.raises(LedgerUnavailable):
            await ledger.check()
        go_on.set()
        assert await held == 1
        await ledger.check()
        assert (await ledger.create(task("u"))).revision == 1


async def test_a_writer_that_stands_still_loses_its_turn_and_writes_later(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = {"idle_in_transaction_session_timeout": "300ms"}
    monkeypatch.setattr(postgres_connection, "_SESSION", {**postgres_connection._SESSION, **limit})
    async with await Ledger.open(address) as ledger, await Ledger.open(address) as other:
        standing, go_on = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def change(before: VideoTask) -> VideoTask:
            loop.call_soon_threadsafe(standing.set)
            asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(60)
            return to(State.SUBMITTING)(before)

        await ledger.create(task("t"))
        held = asyncio.create_task(other.advance("t", change))
        await standing.wait()
        # Written while the other one still believes that it is its turn.
        assert (await ledger.advance("t", lambda before: before.model_copy(update={"priority": 9}))).revision == 2
        go_on.set()
        late = await held
        assert (late.revision, late.priority, late.state) == (3, 9, State.SUBMITTING)
        assert await _log(ledger) == [(1, "t", 1), (2, "t", 2), (3, "t", 3)]
