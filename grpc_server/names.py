"""Resource names of video tasks: ``videoTasks/{video_task}``."""

from __future__ import annotations

from typing import Final

from kling_flows.engine.identity import check_task_id
from kling_flows.errors import Violation

_PREFIX: Final = "videoTasks/"
_SHOWN: Final = 80


def name_of(task_id: str) -> str:
    """The resource name of a task."""
    return _PREFIX + task_id


def parse_name(name: str, field: str) -> str | Violation:
    """The task's id, or what is wrong with the name in ``field``."""
    if not name:
        return Violation(field, "REQUIRED", "name the task: videoTasks/{video_task}")
    task_id = name.removeprefix(_PREFIX)
    if task_id == name:
        hint = f"; did you mean {_PREFIX}{name}?" if check_task_id(name, field) is None else ""
        return Violation(field, "MALFORMED", f"must be videoTasks/{{video_task}}, not {name[:_SHOWN]!r}{hint}")
    violation = check_task_id(task_id, field)
    if violation is None:
        return task_id
    return Violation(field, "MALFORMED", f"what follows videoTasks/ {violation.message}; it is {task_id[:_SHOWN]!r}")
