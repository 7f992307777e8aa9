"""A WatchVideoTasksRequest, checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from grpc_server.filtering import TaskFilter, parse_filter
from grpc_server.names import parse_name
from grpc_server.views import parse_view
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.v1.video_task_service_pb2 import GenerateVideoRequest, WatchVideoTasksRequest

MOST_NAMES: Final = 1_000

#: Seconds of silence before a heartbeat: if none are asked for, and the least and most that can be.
DEFAULT_HEARTBEAT: Final = 30.0
LEAST_HEARTBEAT: Final = 1.0
MOST_HEARTBEAT: Final = 300.0


@dataclass(frozen=True, slots=True)
class WatchPlan:
    """What a watch delivers and how.

    Args:
        task_ids: The watched tasks, as the ledger calls them; empty means those that the filter selects.
        filter: Selects tasks; everything if there are ``task_ids``.
        resume_token: Where to go on; empty begins with a snapshot.
        full: Whether tasks are sent with their spec.
        heartbeat: Longest silence, in seconds.
        until_final: Whether the stream ends when every task is final.
    """

    task_ids: tuple[str, ...]
    filter: TaskFilter
    resume_token: str
    full: bool
    heartbeat: float
    until_final: bool

    @property
    def watched(self) -> bytes:
        """Identifies what is watched: a token made in the middle of its snapshot is worthless for anything else."""
        return hashlib.sha256(repr((self.task_ids, self.filter)).encode()).digest()


def parse_watch(request: WatchVideoTasksRequest, tenant: str) -> WatchPlan:
    """Read a request of a tenant.

    Raises:
        InvalidRequest: with all violations.
    """
    violations: list[Violation] = []
    full = parse_view(request.view, violations)
    task_filter = parse_filter(request.filter, tenant)
    if isinstance(task_filter, Violation):
        violations.append(task_filter)
        task_filter = TaskFilter()
    if request.names and request.filter:
        violations.append(Violation("filter", "CONTRADICTION", "give either names or a filter, not both"))
    if request.until_final and not request.names:
        violations.append(
            Violation("until_final", "CONTRADICTION", "needs names: without them new tasks can always follow")
        )
    task_ids = _parse_names(request, tenant, violations)
    heartbeat = parse_heartbeat(request, violations)
    if violations:
        raise InvalidRequest(violations)
    return WatchPlan(task_ids, task_filter, request.resume_token, full, heartbeat, request.until_final)


def _parse_names(request: WatchVideoTasksRequest, tenant: str, violations: list[Violation]) -> tuple[str, ...]:
    if len(request.names) > MOST_NAMES:
        violations.append(
            Violation(
                "names",
                "TOO_MANY",
                f"at most {MOST_NAMES} names, {len(request.names)} were given; use a filter on labels",
            )
        )
        return ()
    ids: set[str] = set()
    for number, name in enumerate(request.names):
        task_id = parse_name(name, f"names[{number}]", tenant)
        if isinstance(task_id, Violation):
            violations.append(task_id)
        else:
            ids.add(task_id)
    # Sorted, so that the order in which a caller names them makes no difference to its tokens.
    return tuple(sorted(ids))


def parse_heartbeat(request: WatchVideoTasksRequest | GenerateVideoRequest, violations: list[Violation]) -> float:
    """The longest silence, in seconds; what is wrong with it is added to ``violations``."""
    if not request.HasField("heartbeat_interval"):
        return DEFAULT_HEARTBEAT
    seconds = request.heartbeat_interval.seconds + request.heartbeat_interval.nanos / 1e9
    if not LEAST_HEARTBEAT <= seconds <= MOST_HEARTBEAT:
        violations.append(
            Violation(
                "heartbeat_interval",
                "OUT_OF_RANGE",
                f"goes from {LEAST_HEARTBEAT:g} to {MOST_HEARTBEAT:g} s; leave it out for {DEFAULT_HEARTBEAT:g} s",
            )
        )
    return seconds
