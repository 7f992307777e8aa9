"""Resource names of video tasks, ``videoTasks/{video_task}``, and what the ledger calls the same tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from kling_flows.engine.identity import check_task_id, ledger_task_id, public_task_id
from kling_flows.errors import Violation

_PREFIX: Final = "videoTasks/"
_SHOWN: Final = 80

#: Under which an error's metadata names a task.
_TASK_KEY: Final = "video_task"


def name_of(task_id: str) -> str:
    """The name by which a task's tenant knows it; ``task_id`` is the ledger's."""
    return _PREFIX + public_task_id(task_id)


def parse_name(name: str, field: str, tenant: str) -> str | Violation:
    """The ledger's id of the task that the tenant calls so, or what is wrong with the name in ``field``."""
    if not name:
        return Violation(field, "REQUIRED", "name the task: videoTasks/{video_task}")
    task_id = name.removeprefix(_PREFIX)
    if task_id == name:
        hint = f"; did you mean {_PREFIX}{name}?" if check_task_id(name, field) is None else ""
        return Violation(field, "MALFORMED", f"must be videoTasks/{{video_task}}, not {name[:_SHOWN]!r}{hint}")
    violation = check_task_id(task_id, field)
    if violation is None:
        return ledger_task_id(tenant, task_id)
    return Violation(field, "MALFORMED", f"what follows videoTasks/ {violation.message}; it is {task_id[:_SHOWN]!r}")


def shown_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """An error's metadata as the tenant reads it."""
    return {key: public_task_id(value) if key == _TASK_KEY else value for key, value in metadata.items()}
