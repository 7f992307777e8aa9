"""What a table of videos asks for: CSV, JSON lines or Parquet, one video a row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final, cast
from urllib.parse import urlsplit

from kling_flows.engine.identity import MADE_PREFIX
from kling_flows.errors import ConfigurationError, InvalidRequest, Violation
from kling_flows.ledger import VideoTask
from kling_flows.shown.words import row_of
from kling_flows.upstream import TextToVideoRequest, parse_request

#: Most rows of one table: all of them are stored in one transaction.
MOST_ROWS: Final = 10_000

#: Columns that are not fields of the request.
ID_COLUMN: Final = "video_task_id"
PRIORITY_COLUMN: Final = "priority"
LABEL_PREFIX: Final = "label."

#: Fields that a cell of text holds as JSON.
_JSON_FIELDS: Final = frozenset({"camera_control", "multi_prompt", "voice_list", "watermark_info"})

#: Most broken rules that one message names.
_MOST_VIOLATIONS: Final = 50

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One video that is asked for.

    Args:
        number: In the table, from 1.
        task_id: The same whenever the same row is read.
        request: What to make.
        labels: The row's own.
        priority: 0 to 9.
        repeatable: Whether it may be made again after it has ended without a video.
    """

    number: int
    task_id: str
    request: TextToVideoRequest
    labels: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    priority: int = 0
    repeatable: bool = True


def read_records(name: str, contents: bytes) -> list[Record]:
    """The rows of a table; what its name ends in says what it is.

    Raises:
        ConfigurationError: it is none of ours, is broken, or has too many rows.
    """
    suffix = PurePosixPath(urlsplit(name).path).suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise ConfigurationError("source", f"its name ends in {suffix or 'nothing'}; known are {', '.join(_READERS)}")
    try:
        records = reader(contents)
    except (ValueError, csv.Error, OSError) as error:
        raise ConfigurationError("source", f"it cannot be read as {suffix[1:]}: {error}") from error
    if len(records) > MOST_ROWS:
        raise ConfigurationError("source", f"it has {len(records)} rows, of at most {MOST_ROWS}; split it")
    return records


def read_rows(records: Sequence[Record], defaults: TextToVideoRequest | None = None) -> list[Row]:
    """What each row asks for.

    Args:
        records: The rows; empty cells say nothing.
        defaults: What holds where a row says nothing.

    Raises:
        InvalidRequest: with what is wrong in all rows; ``rows[n]`` counts from 1.
    """
    known = {} if defaults is None else defaults.model_dump(mode="json", exclude_unset=True)
    rows: list[Row] = []
    violations: list[Violation] = []
    for number, record in enumerate(records, 1):
        try:
            rows.append(_row(number, record, known))
        except InvalidRequest as error:
            violations += within_row(number, error)
    refuse(violations)
    return rows


def within_row(number: int, error: InvalidRequest) -> list[Violation]:
    """The violations of a row, with the row in their fields."""
    return [Violation(f"rows[{number}].{v.field}", v.rule, v.message) for v in error.violations]


def refuse(violations: Sequence[Violation]) -> None:
    """Refuse a table because of the broken rules in it, if there are any.

    Raises:
        InvalidRequest: there are.
    """
    if not violations:
        return
    more = len(violations) - _MOST_VIOLATIONS
    shown = list(violations[:_MOST_VIOLATIONS])
    if more > 0:
        shown.append(Violation("rows", "TOO_MANY", f"and {more} more"))
    raise InvalidRequest(shown)


def _row(number: int, record: Record, known: Mapping[str, Any]) -> Row:
    cells = {name.strip(): cell for name, cell in record.items() if cell is not None and cell != ""}
    task_id = str(cells.pop(ID_COLUMN, ""))
    labels = {
        name.removeprefix(LABEL_PREFIX): str(cells.pop(name)) for name in list(cells) if name.startswith(LABEL_PREFIX)
    }
    priority = _number(cells.pop(PRIORITY_COLUMN, 0))
    request = parse_request({**known, **{name: _value(name, cell) for name, cell in cells.items()}})
    return Row(number, task_id or _id_of(request, labels), request, labels, priority)


def _number(cell: object) -> int:
    try:
        return int(str(cell))
    except ValueError:
        raise InvalidRequest([Violation(PRIORITY_COLUMN, "WRONG_TYPE", "must be a whole number, 0 to 9")]) from None


def _value(name: str, cell: Any) -> Any:
    if name not in _JSON_FIELDS or not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except ValueError:
        raise InvalidRequest([Violation(name, "MALFORMED", "a cell of this column is JSON")]) from None


def _id_of(request: TextToVideoRequest, labels: Mapping[str, str]) -> str:
    """Made of what the row says, so that the same row is the same video, wherever it stands."""
    said = json.dumps([request.model_dump(mode="json", exclude_defaults=True), dict(labels)], sort_keys=True)
    return f"{MADE_PREFIX}{hashlib.sha256(said.encode()).hexdigest()[:32]}"


def _read_csv(contents: bytes) -> list[Record]:
    reader = csv.DictReader(io.StringIO(contents.decode("utf-8-sig"), newline=""), strict=True)
    records: list[Record] = []
    for record in reader:
        # What stands beyond the last column has no name.
        if None in cast("dict[str | None, Any]", record):
            raise ValueError(f"line {reader.line_num} has more cells than the first line has names")
        records.append(record)
    return records


def _read_json_lines(contents: bytes) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(contents.decode("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError(f"line {number} is not an object")
        records.append(cast("Record", record))
    return records


def _read_parquet(contents: bytes) -> list[Record]:
    return _parquet().read_table(io.BytesIO(contents)).to_pylist()


def _parquet() -> Any:
    try:
        from pyarrow import parquet  # pyright: ignore
    except ImportError as error:
        raise ConfigurationError(
            "source", "Parquet needs the extra: pip install 'kling-flows[parquet]'; or use .csv or .jsonl"
        ) from error
    return cast("Any", parquet)


_READERS: Final[Mapping[str, Callable[[bytes], list[Record]]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def check_result_name(name: str) -> None:
    """Make sure, before anything is paid, that results can be written in the form that the name asks for.

    Raises:
        ConfigurationError: they cannot.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in _READERS:
        raise ConfigurationError(
            "result_file", f"its name ends in {suffix or 'nothing'}; known are {', '.join(_READERS)}"
        )
    if suffix == ".parquet":
        _parquet()


def write_results(name: str, results: Iterable[tuple[int, VideoTask]]) -> bytes:
    """A table of what has become of each row, in the form that the name ends in."""
    rows = [_result(number, task) for number, task in results]
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["row"])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    if suffix == ".parquet":
        import pyarrow  # pyright: ignore

        buffer = io.BytesIO()
        _parquet().write_table(cast("Any", pyarrow).Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def _result(number: int, task: VideoTask) -> dict[str, Any]:
    shown = row_of(task)
    video = task.artifacts[0] if task.artifacts else None
    return {
        "row": number,
        ID_COLUMN: shown["video task"],
        "state": shown["state"],
        "video": shown["video"],
        "sha256": video.sha256 if video else "",
        "size_bytes": video.size_bytes if video else 0,
        "quoted_units": task.quote.units if task.quote else "",
        "settled_units": task.upstream.settled_units if task.upstream else "",
        "error": shown["error"],
    }
