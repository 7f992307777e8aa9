from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from kling_flows.errors import ConfigurationError
from kling_flows.ledger import Ledger, State, TimeBound
from kling_flows.ledger import migrate as module
from kling_flows.ledger.schema import metadata
from kling_flows.upstream import TextToVideoRequest

from .make import task, url_of


async def _make(path: Path) -> None:
    async with await Ledger.open(url_of(path)) as ledger:
        await ledger.create(task("t"))


def _dump(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return list(connection.iterdump())
    finally:
        connection.close()


def _execute(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute(statement)
    finally:
        connection.close()


async def test_a_fresh_ledger_is_what_the_code_expects(path: Path) -> None:
    await _make(path)
    engine = create_engine(url_of(path))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_newest_script_is_the_one_that_is_named() -> None:
    scripts = ScriptDirectory(str(module._SCRIPTS))
    assert scripts.get_heads() == [module.HEAD]
    numbers = [script.revision for script in scripts.walk_revisions()]
    assert numbers == sorted(numbers, reverse=True)


async def test_a_ledger_keeps_its_identity(fresh_url: str, path: Path) -> None:
    async with await Ledger.open(fresh_url) as ledger:
        first = (ledger.ledger_id, ledger.token_key)
    async with await Ledger.open(fresh_url) as ledger:
        assert (ledger.ledger_id, ledger.token_key) == first
    async with await Ledger.open(url_of(path.with_name("other.db"))) as ledger:
        assert ledger.ledger_id != first[0]


async def test_a_ledger_of_a_newer_release_is_refused_and_left_alone(path: Path) -> None:
    await _make(path)
    _execute(path, "UPDATE alembic_version SET version_num = '9999'")
    before = _dump(path)
    with pytest.raises(ConfigurationError) as caught:
        await Ledger.open(url_of(path))
    assert "9999" in caught.value.message
    assert caught.value.setting == "KLING_FLOWS_STATE_DIR"
    assert _dump(path) == before


async def test_a_first_opening_that_failed_half_way_is_made_up_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(module, "_give_identity", fail)
        with pytest.raises(ConfigurationError):
            await Ledger.open(url_of(path))
    await _make(path)


async def test_many_may_open_a_fresh_ledger_at_once(fresh_url: str) -> None:
    ledgers = await asyncio.gather(*(Ledger.open(fresh_url) for _ in range(8)))
    assert len({ledger.ledger_id for ledger in ledgers}) == 1
    for ledger in ledgers:
        await ledger.close()


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    await _make(tmp_path / "a" / "b c" / "ledger.db")


@pytest.mark.parametrize("place", ["file/ledger.db", "file/deeper/ledger.db", "folder", "text"])
async def test_a_place_that_cannot_be_a_ledger_is_a_matter_of_configuration(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(ConfigurationError) as caught:
        await Ledger.open(url_of(tmp_path / place))
    assert str(tmp_path / place) in caught.value.message
    assert (tmp_path / "text").read_text() == "not a database, " * 100


@pytest.mark.parametrize(
    "url", ["mysql://host/db", "postgresql://", "sqlite://", "sqlite:///:memory:", "ledger.db", "", "sqlite:///"]
)
async def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await Ledger.open(url)
    assert caught.value.setting == "KLING_FLOWS_LEDGER_URL"
    assert "sqlite:///" in caught.value.message


async def test_a_ledger_of_an_earlier_release_keeps_its_tasks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import command

    upgrade = command.upgrade
    with monkeypatch.context() as first_release:
        first_release.setattr(command, "upgrade", lambda config, _: upgrade(config, "0001"))
        module.migrate(engine := create_engine(url_of(path)), shown_url="")
        engine.dispose()
    document = task("old").model_dump_json(exclude_defaults=True).replace("'", "''")
    _execute(
        path,
        "INSERT INTO video_tasks (id, tenant, state, revision, document, create_time) "
        f"VALUES ('old', 'default', 'QUEUED', 1, '{document}', 0)",
    )
    _execute(path, f"INSERT INTO events (task_seq, revision, document) VALUES (1, 1, '{document}')")
    ended = task(
        "ended",
        state=State.FAILED,
        end_time=datetime.now(UTC),
        request=TextToVideoRequest(prompt="x", model_name="kling-v2-6"),
    )
    document = ended.model_dump_json(exclude_defaults=True)
    _execute(
        path,
        "INSERT INTO video_tasks (id, tenant, state, revision, document, create_time) "
        f"VALUES ('ended', 'default', 'FAILED', 2, '{document}', 0)",
    )
    async with await Ledger.open(url_of(path)) as ledger:
        assert (await ledger.get("old")).id == "old"
        assert [event.task.id for event in await ledger.read_history("old")] == ["old"]
        assert await ledger.claimable_from() is not None
        for search, found in (
            ({"model_name": "kling-v3"}, ["old"]),
            ({"model_name": "kling-v2-6"}, ["ended"]),
            ({"times": [TimeBound("end_time", ">=", ended.end_time.timestamp())]}, ["ended"]),
        ):
            assert [each.id for _, each in await ledger.list_tasks(tenant="default", **search)] == found
    engine = create_engine(url_of(path))
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()
