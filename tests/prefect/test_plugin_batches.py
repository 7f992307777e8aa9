"""Many videos from a table: all or none are stored, each is paid once, and a re-run makes what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from kling_flows import TextToVideoRequest, text_to_videos
from kling_flows.errors import AddressRefused, ConfigurationError, InvalidRequest
from kling_flows.flows.batches import Again
from kling_flows.flows.files import read_file
from kling_flows.flows.rows import read_records, read_rows
from kling_flows.ledger import Ledger, State
from kling_flows.settings import Settings
from tests.stack import Sandbox

from .rig import Prefect

pytestmark = pytest.mark.xdist_group("prefect-plugin")


def _charges(provider: Sandbox, prompt: str) -> int:
    return [charge["prompt"] for charge in provider.charges()].count(prompt)


def _write(file: Path, *lines: str) -> str:
    file.write_text("\n".join(lines) + "\n")
    return file.as_uri()


async def test_a_table_is_made_once_and_its_rerun_makes_what_is_missing(
    connected: Prefect, provider: Sandbox, tmp_path: Path
) -> None:
    source = _write(
        tmp_path / "ads.csv",
        "prompt,mode,duration,video_task_id,label.team,priority",
        "A table's first row,std,5,,ads,",
        "A table's second row,pro,10,second-row,ads,3",
        "[sandbox:fail] a table's third row,,,,,",
    )
    results = tmp_path / "results" / "ads.csv"
    defaults = TextToVideoRequest(negative_prompt="rain", duration=10)
    first = await text_to_videos(source=source, defaults=defaults, result_file=str(results), most_at_once=2)
    assert [task.state for task in first] == [State.SUCCEEDED, State.SUCCEEDED, State.FAILED]
    assert [task.request.duration for task in first] == [5, 10, 10]
    assert (first[1].id, first[1].priority, first[1].labels) == ("second-row", 3, {"team": "ads"})
    rows = list(csv.DictReader(results.read_text().splitlines()))
    assert [(row["row"], row["video_task_id"], row["state"]) for row in rows] == [
        (str(number), task.id, task.state.value) for number, task in enumerate(first, 1)
    ]
    assert rows[0]["sha256"] == first[0].artifacts[0].sha256

    # The order does not matter, and a new row is made.
    lines = (tmp_path / "ads.csv").read_text().splitlines()
    _write(tmp_path / "ads.csv", lines[0], lines[3], lines[2], lines[1], "A table's fourth row,std,5,,,")
    again = await text_to_videos(source=source, defaults=defaults, again=Again.NOTHING)
    assert [task.id for task in again[:3]] == [first[2].id, first[1].id, first[0].id]
    assert again[3].state is State.SUCCEEDED
    retried = await text_to_videos(source=source, defaults=defaults)
    assert retried[0].id == f"{first[2].id}-2"
    for prompt in ("A table's first row", "A table's second row", "A table's fourth row"):
        assert _charges(provider, prompt) == 1
    assert len(connected.artifacts("video-tasks")) >= 3


async def test_what_is_wrong_in_any_row_stores_nothing(connected: Prefect, tmp_path: Path) -> None:
    source = _write(
        tmp_path / "broken.jsonl",
        json.dumps({"prompt": "All right"}),
        json.dumps({"prompt": "Too long", "duration": 99}),
    )
    with pytest.raises(InvalidRequest, match=r"rows\[2\].*duration"):
        await text_to_videos(source=source)
    async with await Ledger.open(Settings.load().ledger_address) as ledger:
        assert await ledger.head() == 0


def test_rows_say_what_is_wrong_with_all_of_them() -> None:
    records = [{"prompt": "fine"}, {"promt": "typo"}, {"prompt": "x", "multi_prompt": "[broken"}, {"priority": "high"}]
    with pytest.raises(InvalidRequest) as refused:
        read_rows(records)
    assert [violation.field for violation in refused.value.violations] == [
        "rows[2].promt",
        "rows[3].multi_prompt",
        "rows[4].priority",
    ]


def test_the_same_row_is_the_same_video_in_each_format() -> None:
    table = b"prompt,duration\nA boat,10\n"
    lines = b'{"duration": 10, "prompt": "A boat"}\n'
    [from_table] = read_rows(read_records("rows.csv", table))
    [from_lines] = read_rows(read_records("https://host/rows.jsonl?key=secret", lines))
    assert from_table == from_lines


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("rows.xlsx", b"", "known are"),
        ("rows", b"", "known are"),
        ("rows.csv", b"prompt\na,b\n", "more cells"),
        ("rows.csv", b"\xff\xfe", "cannot be read as csv"),
        ("rows.jsonl", b"[]\n", "not an object"),
    ],
)
def test_a_table_that_is_none_is_refused(name: str, contents: bytes, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read_records(name, contents)


def test_parquet_without_its_library_names_the_extra() -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigurationError, match=r"kling-flows\[parquet\]"):
            read_records("rows.parquet", b"PAR1")
    else:
        with pytest.raises(ConfigurationError, match="cannot be read as parquet"):
            read_records("rows.parquet", b"PAR1")


async def test_a_table_is_not_fetched_from_inside_the_network(provider: Sandbox) -> None:
    with pytest.raises(AddressRefused):
        await read_file("source", f"{provider.url}/rows.csv")


async def test_a_file_that_is_not_there_is_named_without_its_query(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.csv cannot be read"):
        await read_file("source", str(tmp_path / "missing.csv"))
