"""What the scenario ``front`` calculates, and that its clients do what they are told."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc
import pytest

from benchmarks.aims import judge_front
from benchmarks.front.clients import Client
from benchmarks.front.figures import FanOut, FrontFigures, FrontObserved, Round, calculate_front
from kling_flows.cli.children import Child
from kling_flows.v1.video_task_service_pb2 import CancelVideoTaskRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

MIB = 2**20


def _observed() -> FrontObserved:
    return FrontObserved(
        creates=[Round(2.0, 0.3, [0.1] * 200, {}), Round(2.0, 0.3, [0.3] * 400, {})],
        empty=[Round(2.0, 0.1, [0.1] * 500, {}), Round(2.0, 0.1, [0.1] * 500, {})],
        burst=Round(3.0, 1.0, [1.0] * 3_999, {"CANCELLED": 1}),
        told={5_000: [0.2, 0.4, 0.3], 10_000: [0.8]},
        bare_told={5_000: [0.1, 0.2, 0.3], 10_000: [0.5]},
        rss=(100 * MIB, 200 * MIB, 10_240),
        idle=[(0.0, 200 * MIB), (30.0, 200 * MIB + 1_024), (60.0, 200 * MIB + 2_048)],
        unary=[0.001] * 100,
        unary_told=[0.001] * 98 + [0.2, 0.3],
        broken=0,
    )


def _met(figures: FrontFigures) -> dict[str, bool]:
    return {verdict.name: verdict.met for verdict in judge_front(figures)}


def test_creates_are_compared_round_by_round() -> None:
    figures = calculate_front(_observed())
    assert (figures.creates_per_second, figures.empty_per_second) == (150.0, 250.0)
    assert figures.of_empty == pytest.approx(0.6)
    assert figures.create_cpu_ms == pytest.approx(1.0)
    assert figures.empty_cpu_ms == pytest.approx(0.2)


def test_what_was_shed_counts_as_called() -> None:
    figures = calculate_front(_observed())
    assert (figures.burst, figures.burst_shed) == (4_000, 1)


def test_a_fan_out_is_the_median_of_its_events_beside_the_bare_one() -> None:
    figures = calculate_front(_observed())
    assert figures.fan_outs[0] == FanOut(watches=5_000, told_ms=300.0, bare_ms=200.0)
    assert figures.fan_outs[1].to_bare == pytest.approx(1.6)


def test_memory_is_per_watch_and_growth_per_minute() -> None:
    figures = calculate_front(_observed())
    assert figures.kib_per_watch == 10.0
    assert figures.idle_kib_per_minute == pytest.approx(2.0)


def test_the_aims_of_the_front_are_judged() -> None:
    assert _met(calculate_front(_observed())) == {
        "empty handler's creates per ours": True,
        "creates shed in a burst": False,
        "memory of an idle watch": True,
        "unary call while all are told, p99": False,
        "watches that ended": True,
    }


@pytest.fixture
async def client() -> AsyncGenerator[Client]:
    async with Client.running(os.environ) as running:
        yield running


async def test_a_client_creates_watches_and_says_when_all_were_told(client: Client, tmp_path: Path) -> None:
    ready = tmp_path / "address"
    module = "benchmarks.empty_server"
    with Child("empty", module, (str(ready),), environment=os.environ, log=tmp_path / "log") as child:
        address = child.wait_for(ready, 60)
        made = await client.order("create", address=address, label="x", count=20, in_flight=4, seconds=60)
        assert (len(made["latencies"]), made["refused"]) == (20, {})
        await client.order("watch", address=address, name="videoTasks/x", count=30, heartbeat=300)
        await client.order("expect")
        async with grpc.aio.insecure_channel(address) as channel:
            await VideoTaskServiceStub(channel).CancelVideoTask(CancelVideoTaskRequest(name="videoTasks/x"))
        answer = await client.order("told")
        assert answer["ended"] == 0
        assert made["ended"] < answer["last"]
        await client.order("close")
