"""What a cancel means for the money and for the video, told to the caller."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest

from kling_flows.ledger import State
from kling_flows.v1 import video_task_pb2 as pb

from .rig import Served, new_record, refused, upstream_record

NAME = "videoTasks/v-1"


async def _submitted(served: Served, **facts: Any) -> None:
    """A task that the provider has accepted."""
    await served.ledger.create(new_record("v-1"))

    def intend(task: Any) -> Any:
        upstream = upstream_record(task).model_copy(update={"status": "processing", **facts})
        return task.model_copy(update={"state": State.SUBMITTING, "upstream": upstream})

    await served.ledger.advance("v-1", intend)
    await served.move(NAME, State.SUBMITTED)


async def test_a_cancel_discards_the_video_unless_it_is_asked_for(served: Served) -> None:
    await _submitted(served)
    task = await served.cancel(NAME)
    assert (task.state, task.video_pending) == (pb.VideoTask.CANCELLED, False)
    assert "no cancel" in task.error.message
    assert "KEEP_VIDEO" in task.error.message
    assert await served.ledger.claimable_from() is None


async def test_a_cancel_can_keep_the_video(served: Served) -> None:
    await _submitted(served)
    task = await served.cancel(NAME, on_cancel=pb.KEEP_VIDEO, reason="too late for me")
    assert (task.state, task.video_pending) == (pb.VideoTask.CANCELLED, True)
    assert "too late for me" in task.error.message
    assert await served.ledger.claimable_from() is not None
    # Repeated, by whoever did not get the answer.
    for on_cancel in (pb.KEEP_VIDEO, pb.DISCARD, pb.LATE_VIDEO_UNSPECIFIED):
        assert await served.cancel(NAME, on_cancel=on_cancel) == task


async def test_a_second_cancel_can_still_ask_for_the_video(served: Served) -> None:
    await _submitted(served)
    first = await served.cancel(NAME)
    second = await served.cancel(NAME, on_cancel=pb.KEEP_VIDEO)
    assert (second.state, second.video_pending) == (pb.VideoTask.CANCELLED, True)
    assert second.revision == first.revision + 1
    assert second.end_time == first.end_time


@pytest.mark.parametrize(
    "facts",
    [
        {"status": "failed"},
        {"task_id": ""},
        {"end_time": datetime.now(UTC) - timedelta(days=31)},
    ],
    ids=["failed", "never accepted", "deleted by now"],
)
async def test_a_video_that_cannot_be_had_is_not_promised(served: Served, facts: dict[str, Any]) -> None:
    await _submitted(served, **facts)
    first = await served.cancel(NAME)
    assert await served.cancel(NAME, on_cancel=pb.KEEP_VIDEO) == first


async def test_a_task_that_waits_has_no_video_to_keep(served: Served) -> None:
    name = (await served.create()).name
    task = await served.cancel(name, on_cancel=pb.KEEP_VIDEO)
    assert (task.state, task.video_pending) == (pb.VideoTask.CANCELLED, False)
    assert "nothing is spent" in task.error.message


async def test_a_word_that_this_server_does_not_know_is_refused(served: Served) -> None:
    await _submitted(served)
    refusal = await refused(served.cancel(NAME, on_cancel=77))
    assert (refusal.code, refusal.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["on_cancel"])
    assert (await served.get(NAME)).state == pb.VideoTask.SUBMITTED
