"""The steps of a video task as parts of its caller's trace, and its name in every line of the log."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime

import structlog
from structlog.contextvars import bound_contextvars

from kling_flows.ledger import State, VideoTask
from kling_flows.telemetry.spans import record, span
from kling_flows.telemetry.trace_context import TraceContext, current_trace, parse_traceparent

log = structlog.get_logger(__name__)


def trace_of(task: VideoTask) -> TraceContext | None:
    """Where the task's create stands in its caller's trace; None if it stands in none."""
    return parse_traceparent(task.traceparent)


@contextmanager
def traced_step(name: str, task: VideoTask) -> Generator[None]:
    """Take a step of a task.

    It is a part of the flow run that is current if that is in the task's own trace; else, as in a batch, of the create.
    """
    place, current = trace_of(task), current_trace()
    if place is not None and current is not None and current.trace_id == place.trace_id:
        place = None
    flow_run = "" if task.flow_run is None else task.flow_run.name
    attributes = {"kling_flows.video_task": task.id, "kling_flows.tenant": task.tenant}
    with bound_contextvars(video_task=task.id), span(name, parent=place, attributes=attributes) as timed:
        if flow_run:
            timed.set("kling_flows.flow_run", flow_run)
        if task.state is State.QUEUED and (around := current_trace()) is not None:
            record("queued", trace_of(task) or around, task.create_time, datetime.now(UTC), attributes)
        log.debug("step begins", step=name, flow_run=flow_run)
        yield
