"""What is seen of one video from outside: front and runner as processes, with metrics, traces and JSON logs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from kling_flows.v1 import text_to_video_pb2 as spec_pb
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub
from tests.stack import PATIENCE, Server, free_port, sandbox, serve, serve_settings, until

from .collector import Collector, Sent, collecting

pytestmark = pytest.mark.xdist_group("telemetry")

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER_SPAN}-01"


@dataclass
class Seen:
    """A server after one video that was asked for within a trace, and one that was not."""

    server: Server
    collector: Collector
    task: pb.VideoTask
    front_metrics: str
    runner_metrics: str

    @property
    def task_id(self) -> str:
        return self.task.name.removeprefix("videoTasks/")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("telemetry")
    front, runner = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    with (
        collecting() as collector,
        sandbox(folder, "--seconds", "1:2", "--concurrency", "0", "--video", "tiny") as provider,
        serve(
            folder,
            serve_settings(
                folder,
                provider.url,
                KLING_FLOWS_HTTP_LISTEN=front,
                KLING_FLOWS_RUNNER_METRICS_LISTEN=runner,
                KLING_FLOWS_LOG_FORMAT="json",
                KLING_FLOWS_LOG_LEVEL="debug",
                KLING_FLOWS_BUDGETS='[{"tenant": "default", "units": 100}]',
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
                OTEL_BSP_SCHEDULE_DELAY="100",
            ),
        ) as server,
    ):
        task = _made(server.address, TRACEPARENT)
        url = f"http://{front}/metrics"
        # The front sees the end by its own look at the log.
        text = until(lambda: _with(url, 'kling_flows_video_tasks_ended_total{state="SUCCEEDED"} 1.0'), "the end counts")
        yield Seen(server, collector, task, text, _scrape(f"http://{runner}/metrics"))


def _made(address: str, traceparent: str) -> pb.VideoTask:
    """A video task that was created within a trace, as it ended."""
    request = rpc.CreateVideoTaskRequest(video_task=pb.VideoTask(text_to_video=spec_pb.TextToVideo(prompt="Seen")))
    with grpc.insecure_channel(address) as channel:
        stub: Any = VideoTaskServiceStub(channel)
        task = stub.CreateVideoTask(request, metadata=(("traceparent", traceparent),), timeout=PATIENCE)
        # Neither of these is in that trace.
        assert list(
            stub.WatchVideoTasks(rpc.WatchVideoTasksRequest(names=[task.name], until_final=True), timeout=PATIENCE)
        )
        return stub.GetVideoTask(rpc.GetVideoTaskRequest(name=task.name, view=pb.FULL), timeout=PATIENCE)


def _scrape(url: str) -> str:
    return httpx.get(url, timeout=30).raise_for_status().text


def _with(url: str, line: str) -> str | None:
    text = _scrape(url)
    return text if line in text else None


def _sample(text: str, name: str, **labels: str) -> float | None:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return sample.value
    return None


def test_the_front_shows_the_rpcs_the_end_and_what_it_cost(seen: Seen) -> None:
    text, units = seen.front_metrics, float(seen.task.cost.settled_units)
    assert seen.task.state == pb.VideoTask.SUCCEEDED
    assert units > 0
    assert _sample(text, "kling_flows_rpcs_total", method="CreateVideoTask", code="OK") == 1
    assert _sample(text, "kling_flows_spend_units", tenant="default", kind="settled") == units
    assert _sample(text, "kling_flows_spend_units", tenant="default", kind="reserved") == 0
    ratio = _sample(text, "kling_flows_budget_used_ratio", budget="tenant:default/account:*/month", unit="units")
    assert ratio == pytest.approx(units / 100)
    assert _sample(text, "kling_flows_video_tasks", state="QUEUED") == 0
    assert _sample(text, "kling_flows_ledger_up") == 1
    assert _sample(text, "kling_flows_runners") == 1
    assert _sample(text, "kling_flows_queue_age_seconds") == 0
    assert seen.task_id not in text


def test_the_runner_shows_its_calls_the_lag_the_bytes_and_the_flow_run(seen: Seen) -> None:
    text = seen.runner_metrics
    assert _sample(text, "kling_flows_upstream_calls_total", operation="create", outcome="ok") == 1
    assert (_sample(text, "kling_flows_upstream_calls_total", operation="get", outcome="ok") or 0) >= 1
    assert _sample(text, "kling_flows_detection_lag_seconds_count") == 1
    assert _sample(text, "kling_flows_archived_bytes_total") == seen.task.artifacts[0].size_bytes
    assert _sample(text, "kling_flows_flow_runs_started_total", kind="single") == 1
    assert _sample(text, "kling_flows_video_tasks_carried_total", kind="single") == 1
    assert _sample(text, "kling_flows_video_tasks_in_flight") is not None
    assert seen.task_id not in text


def test_front_and_runner_go_on_with_the_callers_trace(seen: Seen) -> None:
    expected = {
        "kling_flows.v1.VideoTaskService/CreateVideoTask",
        "ledger write",
        "queued",
        "flow run",
        "submit",
        "upstream create",
        "wait",
        "archive",
    }

    def arrived() -> bool:
        return expected <= {span.name for span in seen.collector.spans(TRACE_ID)}

    until(arrived, "all spans arrive")
    spans = {span.name: span for span in seen.collector.spans(TRACE_ID)}
    create, flow_run = spans["kling_flows.v1.VideoTaskService/CreateVideoTask"], spans["flow run"]
    assert create.parent_id == CALLER_SPAN
    assert (create.service, flow_run.service) == ("kling-flows-front", "kling-flows-runner")
    assert flow_run.parent_id == spans["queued"].parent_id == create.span_id
    for step in ("submit", "wait", "archive"):
        assert spans[step].parent_id == flow_run.span_id
        assert spans[step].attributes["kling_flows.video_task"] == seen.task_id
    assert spans["upstream create"].parent_id == spans["submit"].span_id
    assert spans["upstream create"].attributes["kling_flows.outcome"] == "ok"
    assert flow_run.attributes["kling_flows.flow_run"] == seen.task.flow_run.name
    for span in spans.values():
        assert span.start <= span.end
    assert not re.search("Bearer|Seen", str(seen.collector.requests))


def test_a_call_without_a_trace_begins_one(seen: Seen) -> None:
    def roots() -> list[Sent]:
        return [
            span
            for span in seen.collector.spans()
            if span.name.endswith("/GetVideoTask") and not span.parent_id and span.trace_id != TRACE_ID
        ]

    [first, *_] = until(roots, "a root span arrives")
    assert first.attributes["rpc.grpc.status_code"] == 0


def test_logs_are_json_and_lead_to_the_task_and_to_its_trace(seen: Seen) -> None:
    def lines() -> list[dict[str, Any]]:
        # What is written at this moment may be half of a line.
        return [json.loads(line) for line in seen.server.log().splitlines()[:-1] if line.startswith("{")]

    def about_the_task() -> set[str]:
        return {
            line["event"]
            for line in lines()
            if line.get("video_task") == seen.task_id and line.get("trace_id") == TRACE_ID and line.get("span_id")
        }

    until(lambda: {"rpc ended", "step begins"} <= about_the_task(), "front and runner log both ids")
    assert {line["step"] for line in lines() if line["event"] == "step begins"} == {"submit", "wait", "archive"}
    for line in lines():
        assert {"event", "level", "timestamp"} <= line.keys()
