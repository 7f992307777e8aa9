from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

from kling_flows.ledger import Ledger
from kling_flows.ledger.migrate import HEAD
from tests.stack import clean_environment, cli

from .make import lease, task, url_of
from .postgres_server import PASSWORD, PostgresServer


async def _fill(url: str) -> str:
    async with await Ledger.open(url) as ledger:
        await ledger.create(task("t"))
        return ledger.ledger_id


def test_a_ledger_is_moved_to_postgresql_by_two_commands(
    postgres: PostgresServer, empty_database: str, tmp_path: Path
) -> None:
    ledger_id = asyncio.run(_fill(url_of(tmp_path / "state" / "ledger.db")))
    file, target = tmp_path / "ledger.jsonl", postgres.host_url(empty_database)
    here = clean_environment(KLING_FLOWS_STATE_DIR=str(tmp_path / "state"))
    there = clean_environment(KLING_FLOWS_LEDGER_URL=target)

    made = cli("ledger", "migrate", "--json", environment=there)
    assert json.loads(made.stdout)["schema"] == HEAD
    exported = cli("ledger", "export", str(file), "--json", environment=here)
    assert json.loads(exported.stdout)["rows"]["events"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    imported = cli("ledger", "import", str(file), environment=there)
    assert "1 video tasks and 1 events" in imported.stderr

    again = cli("ledger", "migrate", "--json", environment=there)
    assert json.loads(again.stdout) == {"ledger_id": ledger_id, "schema": HEAD}
    twice = cli("ledger", "import", str(file), environment=there, check=False)
    assert (twice.returncode, "empty" in twice.stderr) == (4, True)
    assert PASSWORD not in made.stderr + imported.stderr + twice.stderr


def test_an_export_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    async def use() -> None:
        async with await Ledger.open(url_of(tmp_path / "ledger.db")) as ledger:
            await ledger.open_lease(lease("r1"))

    asyncio.run(use())
    environment = clean_environment(KLING_FLOWS_STATE_DIR=str(tmp_path))
    folder = tmp_path / "exports"
    folder.mkdir()
    refused = cli("ledger", "export", str(folder / "file"), environment=environment, check=False)
    assert (refused.returncode, "--live" in refused.stderr) == (3, True)
    assert list(folder.iterdir()) == []
    cli("ledger", "export", str(folder / "file"), "--live", environment=environment)
    before = (folder / "file").read_text()
    refused = cli("ledger", "export", str(folder / "file"), "--live", environment=environment, check=False)
    assert (refused.returncode, (folder / "file").read_text()) == (2, before)
