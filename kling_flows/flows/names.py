"""The names of flow runs."""

from __future__ import annotations

from collections.abc import Sequence


def run_name(task_id: str) -> str:
    """Of the run of one video task."""
    return f"text-to-video/{task_id}"


def batch_run_name(task_ids: Sequence[str]) -> str:
    """Of a run that carries several."""
    return f"text-to-videos/{task_ids[0]}+{len(task_ids) - 1}"
