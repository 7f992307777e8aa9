"""How a video task is put into words for Prefect."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from kling_flows.engine.identity import public_task_id
from kling_flows.ledger import VideoTask

_TENANT_TAG: Final = "tenant:"

_PROMPT_LENGTH: Final = 200
_NOT_A_KEY: Final = re.compile(r"[^a-z0-9]+")


def tags_of(task: VideoTask) -> list[str]:
    """What the flow run of a task is found by."""
    return [f"model:{task.request.model_name}", f"mode:{task.request.mode}", f"{_TENANT_TAG}{task.tenant}"]


def tenants_of(tags: Iterable[str]) -> list[str]:
    """The tenants that a flow run's tags tell of."""
    return [tag.removeprefix(_TENANT_TAG) for tag in tags if tag.startswith(_TENANT_TAG)]


def artifact_key(*parts: str) -> str:
    """A key as Prefect takes it: lower-case letters, digits and dashes."""
    return _NOT_A_KEY.sub("-", "-".join(parts).lower()).strip("-")


def short_prompt(task: VideoTask) -> str:
    """The beginning of what was asked for, on one line."""
    words = " ".join((task.request.prompt or " / ".join(shot.prompt for shot in task.request.multi_prompt)).split())
    return words if len(words) <= _PROMPT_LENGTH else f"{words[: _PROMPT_LENGTH - 1]}…"


def price(task: VideoTask) -> str:
    """What it was expected to cost and what was billed, as far as either is known."""
    parts: list[str] = []
    if task.quote is not None:
        parts.append(f"{task.quote.units} units (US${task.quote.usd}) quoted")
    if task.upstream is not None and task.upstream.settled_units:
        parts.append(f"{task.upstream.settled_units} units billed")
    return ", ".join(parts) or "not known"


def row_of(task: VideoTask) -> dict[str, Any]:
    """One line of a table of tasks."""
    return {
        "video task": public_task_id(task.id),
        "state": task.state.value,
        "prompt": short_prompt(task),
        "video": task.artifacts[0].uri if task.artifacts else "",
        "price": price(task),
        "error": task.error.message if task.error else "",
    }
