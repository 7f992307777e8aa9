from __future__ import annotations

from pathlib import Path

import pytest

from kling_flows.errors import ConfigurationError, InvalidRequest
from kling_flows.ledger import Ledger, QuoteRecord, State, token_digest
from kling_flows.upstream import TextToVideoRequest

from .conftest import OpenLedger
from .make import lease, task, to, upstream, url_of


async def _fill(ledger: Ledger) -> None:
    """Something in every table that outlives the runners."""
    quote = QuoteRecord(units="0.6", usd="0.084")
    request = TextToVideoRequest(prompt="eine Tasse ☕ \x00 'x'", callback_url="https://caller.example/hook")
    await ledger.open_lease(lease("r1"))
    for name in ("b_1", "b-1", "B-1", "a-1"):
        made = task(name, labels={"team": "ä", "Team": "z"}, quote=quote, account=name, request=request)
        await ledger.create(made, request_id=name, request_digest="d", runner_id="r1")
    sending = to(State.SUBMITTING, upstream=upstream("a-1"))
    await ledger.advance_and_expect("a-1", sending, runner_id="r1", callback_digest=token_digest("t"))
    await ledger.note_hint(token_digest("t"), "w-1", urgent=True)
    await ledger.note_hint(token_digest("t"), "w-2", urgent=False)
    # The number of the one that is forgotten is not given again.
    await ledger._write(lambda c: c.exec_driver_sql("DELETE FROM hints WHERE webhook_id = 'w-2'").rowcount)
    await ledger.learn_refusal("a-1/kling-v3")
    await ledger.advance_and_learn("b-1", to(State.CANCELLED), runner_id="r1", key="k", seconds=1 / 3)
    await ledger.write_meta("lookup/account", "honoured")
    await ledger.end_lease("r1")


async def _export(ledger: Ledger, file: Path) -> str:
    with open(file, "w+", encoding="utf-8") as target:
        await ledger.export(target)
    return file.read_text()


async def _import(ledger: Ledger, file: Path) -> None:
    with open(file, encoding="utf-8") as source:
        await ledger.import_(source)


async def test_a_ledger_goes_from_a_file_to_any_database_and_back_without_loss(url: str, tmp_path: Path) -> None:
    async with await Ledger.open(url_of(tmp_path / "original.db")) as original:
        await _fill(original)
        text = await _export(original, tmp_path / "1")
        async with await Ledger.open(url) as moved:
            await _import(moved, tmp_path / "1")
            assert await _export(moved, tmp_path / "2") == text
        # It has become the exported one: tokens of the one are the other's.
        async with await Ledger.open(url) as moved:
            assert (moved.ledger_id, moved.token_key) == (original.ledger_id, original.token_key)
            assert await moved.read_events(0, 100) == await original.read_events(0, 100)
            assert await moved.list_tasks(tenant="default") == await original.list_tasks(tenant="default")
            await _export(moved, tmp_path / "3")
        async with await Ledger.open(url_of(tmp_path / "back.db")) as back:
            await _import(back, tmp_path / "3")
            assert await _export(back, tmp_path / "4") == text


async def test_a_moved_ledger_goes_on_counting_where_the_original_stopped(url: str, tmp_path: Path) -> None:
    async with await Ledger.open(url_of(tmp_path / "original.db")) as original:
        await _fill(original)
        await _export(original, tmp_path / "file")
        async with await Ledger.open(url) as moved:
            await _import(moved, tmp_path / "file")
            for each in (original, moved):
                await each.create(task("new"))
                await each.note_hint(token_digest("t"), "w-3", urgent=True)
            assert await moved.head() == await original.head()
            assert await moved.last_hint() == await original.last_hint() == 3
            places = [{seq for seq, _ in await each.list_tasks(tenant="default")} for each in (original, moved)]
            assert places[0] == places[1]


async def test_only_an_empty_ledger_takes_in_another(ledger: Ledger, tmp_path: Path) -> None:
    async with await Ledger.open(url_of(tmp_path / "original.db")) as original:
        await _fill(original)
        await _export(original, tmp_path / "file")
    await ledger.create(task("mine"))
    with pytest.raises(ConfigurationError, match="empty"):
        await _import(ledger, tmp_path / "file")
    assert [each.id for _, each in await ledger.list_tasks(tenant="default")] == ["mine"]


@pytest.mark.parametrize("part", ["nothing", "half", "without the end", "with a change", "another file"])
async def test_a_file_that_is_not_whole_is_refused(open_ledger: OpenLedger, tmp_path: Path, part: str) -> None:
    ledger = await open_ledger()
    async with await Ledger.open(url_of(tmp_path / "original.db")) as original:
        await _fill(original)
        text = await _export(original, tmp_path / "file")
    lines = text.splitlines(keepends=True)
    broken = {
        "nothing": "",
        "half": text[: len(text) // 2],
        "without the end": "".join(lines[:-1]),
        "with a change": text.replace("honoured", "dishonoured"),
        "another file": '{"format":"x"}\n',
    }
    (tmp_path / "file").write_text(broken[part])
    with pytest.raises(InvalidRequest, match="whole"):
        await _import(ledger, tmp_path / "file")
    assert await ledger.head() == 0


async def test_a_ledger_in_use_is_only_exported_as_a_backup(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.open_lease(lease("r1"))
    with pytest.raises(InvalidRequest, match="runner"):
        await _export(ledger, tmp_path / "file")
    with open(tmp_path / "file", "w+") as target:
        assert (await ledger.export(target, live=True))["leases"] == 1
