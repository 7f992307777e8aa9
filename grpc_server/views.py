"""How much of a task a caller wants."""

from __future__ import annotations

from kling_flows.errors import Violation
from kling_flows.v1 import video_task_pb2 as pb


def parse_view(view: int, violations: list[Violation]) -> bool:
    """Whether the spec is wanted; a view that does not exist is added to ``violations``."""
    if view not in (pb.VIDEO_TASK_VIEW_UNSPECIFIED, pb.BASIC, pb.FULL):
        violations.append(Violation("view", "WRONG_WORD", f"{view} is not a view; use BASIC or FULL"))
    return view != pb.BASIC
