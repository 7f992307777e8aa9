from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import event

from kling_flows.ledger import Ledger
from kling_flows.ledger.callbacks import DeliveryState
from kling_flows.ledger.figures import read_figures
from kling_flows.ledger.sqlite import create_sqlite_engine
from kling_flows.upstream import TextToVideoRequest
from tests.ledger.make import task, url_of


async def test_no_figure_is_read_by_going_through_all_tasks(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with await Ledger.open(url_of(path)) as ledger:
        await ledger.create(task("t"))
    engine = create_sqlite_engine(str(path), writer=False)
    asked: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        asked.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        read_figures(connection)
        statements = [(statement, values) for statement, values in asked if statement.startswith("SELECT")]
        plans = [
            row[3]
            for statement, values in statements
            if "FROM leases" not in statement
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    engine.dispose()
    assert len(statements) == 5
    assert any("COVERING INDEX ix_video_tasks_state" in step for step in plans)
    assert not [step for step in plans if step.startswith("SCAN")], plans


async def test_calls_to_callers_are_counted_until_they_are_delivered(tmp_path: Path) -> None:
    request = TextToVideoRequest(prompt="a cup", callback_url="https://example.com/hook")
    async with await Ledger.open(url_of(tmp_path / "ledger.db")) as ledger:
        await ledger.create(task("t", request=request))
        assert (await ledger.read_figures()).deliveries == {DeliveryState.PENDING: 1, DeliveryState.DEAD: 0}
        [delivery] = await ledger.claim_deliveries(1, 60.0)
        await ledger.settle_delivery(delivery, DeliveryState.DEAD, last_error="gone")
        assert (await ledger.read_figures()).deliveries == {DeliveryState.PENDING: 0, DeliveryState.DEAD: 1}
