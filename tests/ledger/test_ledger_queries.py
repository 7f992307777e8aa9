"""That a search stays cheap when there is much to search."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import sqlite

from kling_flows.ledger import Ledger, State, TaskPlace, TimeBound
from kling_flows.ledger.queries import select_tasks

from .make import task, to, url_of

PLACE = TaskPlace(1_700_000_000.0, 5)
SEARCHES: dict[str, dict[str, Any]] = {
    "all": {},
    "oldest first": {"oldest_first": True},
    "next page": {"beyond": PLACE},
    "next page, oldest first": {"beyond": PLACE, "oldest_first": True},
    "state": {"states": [State.SUCCEEDED], "beyond": PLACE},
    "model": {"model_name": "kling-v3"},
    "state and model": {"states": [State.QUEUED], "model_name": "kling-v3"},
    "create time": {"times": [TimeBound("create_time", ">=", 1.7e9)]},
    "end time": {"times": [TimeBound("end_time", "<", 1.7e9)]},
    "labels": {"label_values": [("team", "ads"), ("kind", "cat")]},
}


async def _plan(path: Path, **search: Any) -> list[str]:
    async with await Ledger.open(url_of(path)):
        pass
    query = select_tasks(tenant="default", limit=51, **search).compile(
        dialect=sqlite.dialect(), compile_kwargs={"render_postcompile": True}
    )
    connection = sqlite3.connect(path)
    try:
        names = query.positiontup or []
        rows = connection.execute(f"EXPLAIN QUERY PLAN {query}", [query.params[name] for name in names])
        return [row[3] for row in rows]
    finally:
        connection.close()


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
async def test_a_page_is_read_in_the_order_of_an_index_and_not_sorted(path: Path, search: dict[str, Any]) -> None:
    plan = await _plan(path, **search)

    assert "ix_video_tasks_tenant_create_time_seq_state_model_name (tenant=?" in plan[0]
    assert not any("TEMP B-TREE" in step or step.startswith("SCAN") for step in plan)


async def test_tasks_that_are_named_are_looked_up_one_by_one(path: Path) -> None:
    for search in ({}, {"beyond": PLACE}):
        plan = await _plan(path, ids=["a", "b"], **search)
        assert "sqlite_autoindex_video_tasks_1 (id=?)" in plan[0]


async def test_an_end_time_is_there_once_a_task_has_ended(ledger: Ledger) -> None:
    await ledger.create(task("t"))
    bound = TimeBound("end_time", ">", 0.0)
    assert await ledger.list_tasks(tenant="default", times=[bound]) == []
    ended = await ledger.advance("t", to(State.FAILED))
    assert ended.end_time is not None
    for comparison, found in (("<", 0), ("<=", 1), (">", 0), (">=", 1)):
        times = [TimeBound("end_time", comparison, ended.end_time.timestamp())]
        assert len(await ledger.list_tasks(tenant="default", times=times)) == found
