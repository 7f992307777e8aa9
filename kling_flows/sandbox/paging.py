"""Pages by cursor, as the task list and the billing lists have them (fact sheet 4.4, 8.3).

A cursor carries the whole question, because with one every other field is ignored.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from kling_flows.sandbox.errors import invalid
from kling_flows.sandbox.fields import an_object, array, integer, invalid_value, milliseconds, text, top_level
from kling_flows.upstream.constants import MAX_CURSOR_LIMIT

#: Milliseconds that a list goes back where no start is given.
_DEFAULT_SPAN_MS: Final = 30 * 86_400_000


class Question(BaseModel):
    """What a page is wanted of.

    Args:
        kind: The list.
        start_ms: First Unix millisecond of the window.
        end_ms: Last Unix millisecond of the window.
        limit: Most entries of a page.
        filters: Words by key, each of which an entry must have one of.
        place: Where the page begins; ``None`` for the newest entry.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: str
    start_ms: int
    end_ms: int
    limit: int
    filters: Mapping[str, list[str]]
    place: int | None = None

    def asks_for(self, key: str, value: str) -> bool:
        """Whether an entry with that value may be shown."""
        wanted = self.filters.get(key)
        return not wanted or value in wanted

    def covers(self, unix_ms: int) -> bool:
        """Whether a time is in the window."""
        return self.start_ms <= unix_ms <= self.end_ms

    def cursor(self, place: int) -> str:
        """The cursor of the page that begins at ``place``."""
        return base64.urlsafe_b64encode(self.model_copy(update={"place": place}).model_dump_json().encode()).decode()


def parse_question(body: object, kind: str, *, limit: int, keys: tuple[str, ...], window_required: bool) -> Question:
    """Read the body of a list by cursor.

    Args:
        body: The body, decoded from JSON.
        kind: The list; a cursor of another one is refused.
        limit: Entries of a page where none are given.
        keys: What can be filtered by.
        window_required: Whether ``start_time`` and ``end_time`` have to be given; else it is the last 30 days.

    Raises:
        Refusal: A field is not as it should be.
    """
    fields = top_level(body)
    cursor = text(fields, "cursor")
    if cursor:
        return _open(cursor, kind)
    start_ms, end_ms = milliseconds(fields, "start_time"), milliseconds(fields, "end_time")
    if window_required and (start_ms is None or end_ms is None):
        raise invalid("start_time and end_time are required")
    end_ms = time.time_ns() // 1_000_000 if end_ms is None else end_ms
    start_ms = end_ms - _DEFAULT_SPAN_MS if start_ms is None else start_ms
    if start_ms > end_ms:
        raise invalid("start_time must be earlier than end_time")
    size = integer(fields, "limit", range(1, MAX_CURSOR_LIMIT + 1), limit)
    filters = _filters(fields, keys)
    return Question(kind=kind, start_ms=start_ms, end_ms=end_ms, limit=size, filters=filters)


def page(question: Question, entries: list[object], following: int | None, *, nested: bool) -> dict[str, object]:
    """``data`` of a page.

    Args:
        question: What was asked.
        entries: What is shown.
        following: Where the next page begins; ``None`` where there is none.
        nested: Whether the entries are in ``result.detail``, as in billing, or in ``result`` itself.
    """
    count = len(entries)
    answer: dict[str, object] = (
        {"result": {"detail": entries, "count": count}} if nested else {"result": entries, "count": count}
    )
    answer["has_more"] = following is not None
    if following is not None:
        answer["next_cursor"] = question.cursor(following)
    return answer


def _filters(fields: Mapping[str, object], keys: tuple[str, ...]) -> dict[str, list[str]]:
    filters: dict[str, list[str]] = {}
    for number, item in enumerate(array(fields, "filters")):
        path = f"filters[{number}]"
        entry = an_object(item, path)
        key = text(entry, "key", f"{path}.")
        if key not in keys:
            raise invalid_value(f"{path}.key", key)
        for value in array(entry, "values", f"{path}."):
            if not isinstance(value, str):
                raise invalid_value(f"{path}.values", value)
            filters.setdefault(key, []).append(value)
    return filters


def _open(cursor: str, kind: str) -> Question:
    try:
        question = Question.model_validate(json.loads(base64.urlsafe_b64decode(cursor)))
    except (ValueError, RecursionError, ValidationError) as error:
        raise invalid_value("cursor", cursor) from error
    if question.kind != kind or not 1 <= question.limit <= MAX_CURSOR_LIMIT:
        raise invalid_value("cursor", cursor)
    return question
