"""A tenant that calls too much is told so, and when to come back; others do not notice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_server.limits import TenantLimits
from kling_flows.errors import RateLimited
from kling_flows.v1 import video_task_service_pb2 as rpc

from .access import ADS, NEWS, bearer, create
from .rig import PATIENCE, Rig, eventually, refused


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_creates_beyond_the_rate_are_refused_until_time_has_passed() -> None:
    clock = Clock()
    limits = TenantLimits(create_rate=2.0, clock=clock)
    for _ in range(20):
        limits.take_creates("ads")
    with pytest.raises(RateLimited) as caught:
        limits.take_creates("ads")
    assert caught.value.retry_after == pytest.approx(0.5)
    assert caught.value.subject == "tenant:ads/creates-per-second"
    limits.take_creates("news")
    clock.now += caught.value.retry_after
    limits.take_creates("ads")


def test_a_batch_larger_than_a_burst_passes_once_and_is_paid_off() -> None:
    clock = Clock()
    limits = TenantLimits(create_rate=1.0, clock=clock)
    limits.take_creates("ads", 100)
    clock.now += 90.0
    with pytest.raises(RateLimited):
        limits.take_creates("ads")
    clock.now += 1.1
    limits.take_creates("ads")


async def test_the_rate_is_told_with_the_time_to_wait_and_the_quota(rig: Rig) -> None:
    served = await rig.serve(create_rate=0.1)  # one at once, then one in ten seconds
    await served.create()
    refusal = await refused(served.create())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.retry_seconds is not None
    assert 1 <= refusal.retry_seconds <= 10
    assert refusal.quota is not None
    assert [violation.subject for violation in refusal.quota.violations] == ["tenant:default/creates-per-second"]
    # What only asks costs nothing.
    await served.create(validate_only=True)


async def test_streams_beyond_the_limit_are_refused_and_a_place_is_free_when_one_ends(rig: Rig) -> None:
    served = await rig.serve(max_watches=1)
    first = served.stub.WatchVideoTasks(rpc.WatchVideoTasksRequest())
    await first.read()
    refusal = await refused(served.stub.WatchVideoTasks(rpc.WatchVideoTasksRequest()).read())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.retry_seconds is not None
    first.cancel()

    async def place_is_free() -> bool:
        second = served.stub.WatchVideoTasks(rpc.WatchVideoTasksRequest())
        try:
            await second.read()
        except grpc.aio.AioRpcError:
            return False
        return second.cancel()

    await eventually(place_is_free)


async def test_calls_beyond_the_limit_are_refused_and_those_of_another_tenant_are_not(
    rig: Rig, access_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await rig.serve(access_file=access_file, max_calls=1)
    begun, answer, list_tasks = asyncio.Event(), asyncio.Event(), served.ledger.list_tasks

    async def slowly(**wanted: Any) -> Any:
        begun.set()
        await answer.wait()
        return await list_tasks(**wanted)

    monkeypatch.setattr(served.ledger, "list_tasks", slowly)
    first = served.stub.ListVideoTasks(rpc.ListVideoTasksRequest(), **bearer(ADS))
    await asyncio.wait_for(begun.wait(), PATIENCE)
    refusal = await refused(create(served, ADS))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    assert refusal.quota is not None
    assert [violation.subject for violation in refusal.quota.violations] == ["tenant:ads/calls"]
    await create(served, NEWS)
    answer.set()
    await asyncio.wait_for(first, PATIENCE)
    await create(served, ADS)
