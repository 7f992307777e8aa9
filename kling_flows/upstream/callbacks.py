"""The body of a callback, in either dialect (fact sheet 6).

A callback is a hint: what it says is re-read by a query before anything rests on it. Its signature is not checked here.
"""

from __future__ import annotations

from kling_flows.upstream import legacy, standard
from kling_flows.upstream.body import UnreadableAnswer, as_mapping, as_text, decode, levels
from kling_flows.upstream.task import UpstreamTask


def parse_callback(raw: bytes) -> UpstreamTask:
    """Read the task that a callback is about.

    The dialect is told by the key of the id, ``task_id`` or ``id``: which of them a task is reported in is not
    documented clearly, and need not be the one that it was created in.

    Raises:
        UnreadableAnswer: The body is not JSON, or holds no task.
    """
    body = as_mapping(decode(raw.decode("utf-8-sig", errors="replace")))
    if body is None:
        raise UnreadableAnswer("the callback is no JSON object")
    if any(as_text(level.get("task_id")) for level in levels(body)):
        return legacy.parse_task(body)
    return standard.parse_task(body)
