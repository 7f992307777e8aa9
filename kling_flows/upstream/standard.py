"""The standard dialect: ``/text-to-video/{model}`` and ``/tasks``, which Kling alone speaks (fact sheet 2.3, 4.4).

Bodies are read tolerantly: fields that are absent, ``null``, new or of another type never cost a task that is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from kling_flows.upstream.body import (
    UnreadableAnswer,
    as_decimal,
    as_mapping,
    as_moment,
    as_sequence,
    as_text,
    in_milliseconds,
    levels,
    request_id_of,
)
from kling_flows.upstream.capabilities import capability_map
from kling_flows.upstream.codec import Ask, CursorPage
from kling_flows.upstream.constants import (
    MAX_CURSOR_LIMIT,
    MAX_TASK_IDS,
    STANDARD_SUCCEEDED,
    STANDARD_TEXT_TO_VIDEO_PATH,
    TASKS_PATH,
    Dialect,
    StatusWord,
)
from kling_flows.upstream.errors import UpstreamNotFound
from kling_flows.upstream.request import Shot, TextToVideoRequest
from kling_flows.upstream.task import UNIT, Charge, UpstreamStatus, UpstreamTask, UpstreamVideo
from kling_flows.upstream.vocabulary import RESOLUTIONS, Sound

_STATUS: Final[Mapping[str, UpstreamStatus]] = {
    StatusWord.SUBMITTED: UpstreamStatus.SUBMITTED,
    StatusWord.PROCESSING: UpstreamStatus.PROCESSING,
    STANDARD_SUCCEEDED: UpstreamStatus.SUCCEEDED,
    # Its other dialect's word means nothing else.
    StatusWord.SUCCEED: UpstreamStatus.SUCCEEDED,
    StatusWord.FAILED: UpstreamStatus.FAILED,
}
_VIDEO: Final = "video"


class StandardCodec:
    """The calls that both dialects have, in this one."""

    def ask_create(self, request: TextToVideoRequest, external_task_id: str) -> Ask:
        path, body = encode_create(request, external_task_id)
        return Ask("POST", path, body=body)

    def read_created(self, payload: Mapping[str, Any]) -> UpstreamTask:
        return parse_task(payload)

    def ask_one(self, wanted: str, *, external: bool) -> Ask:
        return ask_many((wanted,), external=external)

    def read_one(self, payload: Mapping[str, Any], wanted: str, *, external: bool) -> UpstreamTask:
        items, tasks = _listed(payload)
        if not items:
            raise UpstreamNotFound(
                "The provider has no task of that id (its answer is an empty list). Check the id and the account.",
                http_status=200,
                request_id=request_id_of(payload) or None,
            )
        for task in tasks:
            # An answer to the question for our id need not repeat it.
            if wanted == ((task.external_task_id or wanted) if external else task.task_id):
                return task
        raise UnreadableAnswer("the answer is about another task")


def encode_create(request: TextToVideoRequest, external_task_id: str) -> tuple[str, dict[str, Any]]:
    """Return path and body of a create.

    A setting that the model does not have is left out.

    Args:
        request: Assumed to be valid in this dialect.
        external_task_id: Unique in the account; what a lost answer is looked up by.

    Raises:
        ValueError: ``external_task_id`` is empty, or this dialect does not have the model.
    """
    if not external_task_id:
        raise ValueError("a create without an external_task_id could not be looked up")
    model = capability_map().abilities(request.model_name, Dialect.STANDARD)
    if model is None:
        raise ValueError(f"the standard dialect has no model {request.model_name}")
    settings: dict[str, Any] = {}
    # 3.0 divides a plain prompt into shots unless it is told not to (fact sheet 2.3).
    if model.multi_shot:
        settings["multi_shot"] = request.multi_shot
    if model.sound and not model.sound_always:
        settings["audio"] = "native" if request.sound is Sound.ON else "off"
    settings["resolution"] = RESOLUTIONS[request.mode]
    settings["aspect_ratio"] = request.aspect_ratio
    settings["duration"] = request.duration
    options: dict[str, Any] = {"external_task_id": external_task_id}
    if request.callback_url is not None:
        options["callback_url"] = request.callback_url
    if request.watermark_info is not None:
        options["watermark_info"] = {"enabled": request.watermark_info.enabled}
    prompt = prompt_of_shots(request.multi_prompt) if request.multi_prompt else request.prompt
    path = f"{STANDARD_TEXT_TO_VIDEO_PATH}/{model.path}"
    return path, {"prompt": prompt, "settings": settings, "options": options}


#: Ends a shot in `prompt_of_shots`, so that no shot's own words may hold it.
SHOT_SEPARATOR: Final = ";"


def prompt_of_shots(shots: Sequence[Shot]) -> str:
    """Return shots as this dialect writes them: ``shot 1, 4, words; shot 2, 3, words`` (fact sheet 2.3).

    The second number is a shot's length in seconds. That loses nothing of ``shot_type`` "customize": number, length and
    words all have their place. Only words that hold the separator could be taken for the end of their shot, so that
    `validation` refuses those instead of rewriting them.
    """
    written = (f"shot {number}, {shot.duration}, {shot.prompt}" for number, shot in enumerate(shots, start=1))
    return f"{SHOT_SEPARATOR} ".join(written)


def ask_many(wanted: Sequence[str], *, external: bool) -> Ask:
    """Return the query for up to 20 tasks; ``external``: by our ids.

    Raises:
        ValueError: There is no id or there are too many, or one is empty or holds the comma that parts them.
    """
    if not 1 <= len(wanted) <= MAX_TASK_IDS:
        raise ValueError(f"a query takes 1 to {MAX_TASK_IDS} ids")
    if any(not one or "," in one for one in wanted):
        raise ValueError("an id is empty or holds a comma, and would ask for something else")
    return Ask("GET", TASKS_PATH, {"external_task_ids" if external else "task_ids": ",".join(wanted)})


def ask_since(start: datetime, end: datetime, cursor: str, limit: int) -> Ask:
    """Return the query for one page of the tasks of a period.

    Raises:
        ValueError: ``limit`` is beyond what Kling takes, or the times have no time zone or no time between them.
    """
    if not 1 <= limit <= MAX_CURSOR_LIMIT:
        raise ValueError(f"limit goes from 1 to {MAX_CURSOR_LIMIT}")
    return Ask(
        "POST", TASKS_PATH, body={**period(start, end), "limit": limit, **({"cursor": cursor} if cursor else {})}
    )


def period(start: datetime, end: datetime) -> dict[str, str]:
    """Return a period as the lists take it: milliseconds as text, as in the published example (fact sheet 4.4).

    Raises:
        ValueError: A time has no time zone, or there is no time between them.
    """
    first, last = in_milliseconds(start), in_milliseconds(end)
    if first >= last:
        raise ValueError("start has to be before end")
    return {"start_time": str(first), "end_time": str(last)}


def parse_task(payload: Mapping[str, Any]) -> UpstreamTask:
    """Read one task from the answer to a create, or from the bare body of a callback.

    Raises:
        UnreadableAnswer: There is no task with an id.
    """
    task = next((level for level in levels(payload) if as_text(level.get("id"))), None)
    if task is None:
        raise UnreadableAnswer("the answer holds no id")
    return _task(task, request_id_of(payload))


def parse_tasks(payload: Mapping[str, Any]) -> tuple[UpstreamTask, ...]:
    """Read the answer to a query by ids; items without an id are passed over.

    Raises:
        UnreadableAnswer: There is no list. ``null`` is none: taken for empty it would deny tasks that may be there.
    """
    return _listed(payload)[1]


def parse_page(payload: Mapping[str, Any]) -> CursorPage:
    """Read one page of the list.

    Raises:
        UnreadableAnswer: There is no list.
    """
    for level in levels(payload):
        items = as_sequence(level.get("result"))
        if items is not None:
            cursor = as_text(level.get("next_cursor"))
            # Without a cursor the next page would be this one again.
            more = level.get("has_more") is True and bool(cursor)
            return CursorPage(_tasks(items, request_id_of(payload)), cursor if more else "", more)
    raise UnreadableAnswer("the answer holds no list of tasks")


def _listed(payload: Mapping[str, Any]) -> tuple[Sequence[object], tuple[UpstreamTask, ...]]:
    for level in levels(payload):
        items = as_sequence(level.get("data"))
        if items is not None:
            return items, _tasks(items, request_id_of(payload))
    raise UnreadableAnswer("the answer holds no list of tasks")


def _tasks(items: Sequence[object], request_id: str) -> tuple[UpstreamTask, ...]:
    found = [task for task in map(as_mapping, items) if task is not None and as_text(task.get("id"))]
    return tuple(_task(task, request_id) for task in found)


def _task(task: Mapping[str, object], request_id: str) -> UpstreamTask:
    word = as_text(task.get("status"))
    outputs = map(as_mapping, as_sequence(task.get("outputs")) or ())
    charges = tuple(_charges(task))
    units = [charge.amount for charge in charges if charge.charge_type == UNIT]
    return UpstreamTask(
        task_id=as_text(task.get("id")),
        external_task_id=as_text(task.get("external_id")) or None,
        status=_STATUS.get(word, UpstreamStatus.UNKNOWN),
        status_word=word,
        status_message=as_text(task.get("message")),
        request_id=request_id,
        created_at=as_moment(task.get("create_time")),
        updated_at=as_moment(task.get("update_time")),
        videos=tuple(_video(output) for output in outputs if output is not None and _is_video(output)),
        unit_deduction=sum(units, Decimal(0)) if units else None,
        billing=charges,
    )


def _is_video(output: Mapping[str, object]) -> bool:
    return bool(as_text(output.get("url"))) and as_text(output.get("type")) in (_VIDEO, "")


def _video(output: Mapping[str, object]) -> UpstreamVideo:
    duration = as_decimal(output.get("duration"))
    return UpstreamVideo(
        id=as_text(output.get("id")),
        url=as_text(output.get("url")),
        watermark_url=as_text(output.get("watermark_url")) or None,
        duration_seconds=None if duration is None else float(duration),
    )


def _charges(task: Mapping[str, object]) -> Iterator[Charge]:
    for charge in map(as_mapping, as_sequence(task.get("billing")) or ()):
        amount = None if charge is None else as_decimal(charge.get("amount"))
        if charge is None or amount is None:
            continue
        yield Charge(
            charge_type=as_text(charge.get("charge_type")),
            amount=amount,
            currency=as_text(charge.get("currency")),
            package_type=as_text(charge.get("package_type")),
            cash_type=as_text(charge.get("cash_type")),
            list_price=as_decimal(charge.get("list_price")),
        )
