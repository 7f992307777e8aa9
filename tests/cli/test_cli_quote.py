"""``kling-flows quote`` against a real front: the figure of every price row of the fact sheet."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest

from kling_flows.upstream import Dialect, Provider, capability_map, parse_request, validate
from tests.front.rig import Rig
from tests.upstream.price_rows import PRICE_ROWS, PriceRow

from .command import Result, run

#: Commands at a time: each is a process.
AT_A_TIME = 2


def options(row: PriceRow) -> list[str]:
    return [
        *("--model", row.model, "--duration", str(row.seconds), "--mode", row.mode),
        *("--sound", "on" if row.sound else "off"),
        *(("--voice", "v-1") if row.voice else ()),
    ]


def dialect(row: PriceRow) -> Dialect:
    return Dialect.STANDARD if capability_map().abilities(row.model, Dialect.LEGACY) is None else Dialect.LEGACY


def can_be_made(row: PriceRow) -> bool:
    wish = {
        "prompt": "a cat",
        "model_name": row.model,
        "mode": row.mode,
        "duration": row.seconds,
        "sound": "on" if row.sound else "off",
        "voice_list": [{"voice_id": "v-1"}] if row.voice else [],
    }
    return not validate(parse_request(wish), Provider.KLING, dialect(row))


async def quoted(server: str, rows: list[PriceRow]) -> dict[PriceRow, Result]:
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(row: PriceRow) -> Result:
        async with places:
            return await run("quote", "a cat", "--quiet", *options(row), "--server", server)

    return dict(zip(rows, await asyncio.gather(*map(ask, rows)), strict=True))


@pytest.mark.parametrize("of", Dialect)
async def test_each_price_row_is_quoted_with_its_figure(rig: Rig, of: Dialect) -> None:
    rows = [row for row in PRICE_ROWS if dialect(row) is of and row.seconds in (5, 10) and can_be_made(row)]
    served = await rig.serve(provider="kling", dialect=of.value, kling_api_key="key-of-nobody")
    results = await quoted(served.front.address, rows)
    assert {str(row): (result.code, result.err) for row, result in results.items()} == {
        str(row): (0, "") for row in rows
    }
    assert {row: Decimal(result.out) for row, result in results.items()} == {row: row.units for row in rows}


async def test_only_what_can_be_made_is_quoted_and_the_remedy_is_named(rig: Rig) -> None:
    rows = [row for row in PRICE_ROWS if row.seconds == 5 and not can_be_made(row)]
    # Nothing else of the fact sheet's text-to-video rows: a retired model, and a field of image-to-video.
    assert {(row.model, row.voice) for row in rows} == {("kling-v1", False), ("kling-v2-6", True)}
    served = await rig.serve(provider="kling", kling_api_key="key-of-nobody")
    for row, result in (await quoted(served.front.address, rows)).items():
        assert result.code == 3
        assert ("use kling-v2-5-turbo" if row.model == "kling-v1" else "or use kling-v3") in result.err
