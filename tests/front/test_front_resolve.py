"""A person decides about a task whose outcome nobody else can find out."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from kling_flows.ledger import State
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

from .rig import Served, new_record, refused, upstream_record

NAME = "videoTasks/unsure"


@pytest.fixture
async def unresolved(served: Served) -> Served:
    await served.ledger.create(new_record("unsure"))

    def intend(task: Any) -> Any:
        upstream = upstream_record(task).model_copy(update={"task_id": "", "outcome_unknown": True})
        return task.model_copy(update={"state": State.SUBMITTING, "upstream": upstream})

    await served.ledger.advance("unsure", intend)
    await served.move(NAME, State.UNRESOLVED)
    return served


async def _resolve(served: Served, **fields: Any) -> pb.VideoTask:
    return await served.stub.ResolveVideoTask(rpc.ResolveVideoTaskRequest(name=NAME, **fields))


async def test_adopting_makes_it_submitted_and_claimable(unresolved: Served) -> None:
    assert await unresolved.ledger.claimable_from() is None
    task = await _resolve(unresolved, adopt_task_id="852804175322200000")
    assert (task.state, task.upstream.task_id) == (pb.VideoTask.SUBMITTED, "852804175322200000")
    assert await unresolved.ledger.claimable_from() is not None


async def test_abandoning_makes_it_failed_and_says_what_may_still_be_billed(unresolved: Served) -> None:
    task = await _resolve(unresolved, abandon=True)
    assert task.state == pb.VideoTask.FAILED
    assert "may still bill" in task.error.message


@pytest.mark.parametrize("decision", [{"adopt_task_id": "7"}, {"abandon": True}])
async def test_the_same_decision_again_changes_nothing(unresolved: Served, decision: dict[str, Any]) -> None:
    first = await _resolve(unresolved, **decision)
    assert (await _resolve(unresolved, **decision)).revision == first.revision


async def test_another_decision_afterwards_is_refused(unresolved: Served) -> None:
    await _resolve(unresolved, adopt_task_id="7")
    for decision in ({"adopt_task_id": "8"}, {"abandon": True}):
        refusal = await refused(_resolve(unresolved, **decision))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VIDEO_TASK_NOT_UNRESOLVED")


@pytest.mark.parametrize("decision", [{}, {"abandon": False}, {"adopt_task_id": "two words"}])
async def test_a_decision_that_is_none_is_refused(unresolved: Served, decision: dict[str, Any]) -> None:
    refusal = await refused(_resolve(unresolved, **decision))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_a_task_that_is_not_there_is_not_found(served: Served) -> None:
    refusal = await refused(_resolve(served, abandon=True))
    assert refusal.code is grpc.StatusCode.NOT_FOUND
