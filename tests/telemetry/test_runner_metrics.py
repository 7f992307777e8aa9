"""The runner's metrics endpoint, and the steps of a task in its caller's trace."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from kling_flows.engine.tracing import traced_step
from kling_flows.errors import ConfigurationError
from kling_flows.runner.metrics import InFlight, runner_measures
from kling_flows.settings import Settings
from kling_flows.telemetry.measures import Measures
from kling_flows.telemetry.spans import span
from kling_flows.telemetry.trace_context import TraceContext, current_trace
from tests.ledger.make import task
from tests.stack import free_port

from .kept import Kept, parent_id_of, span_id_of
from .test_spans import CALLER


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_without_an_address_nothing_is_counted_or_served() -> None:
    with runner_measures(Settings.load(), InFlight()) as measures:
        assert type(measures) is Measures
        measures.upstream_call("create", "ok")


def test_what_the_engine_tells_is_served_until_the_end() -> None:
    address = f"127.0.0.1:{free_port()}"
    in_flight = InFlight()
    with runner_measures(Settings.load(runner_metrics_listen=address), in_flight) as measures:
        in_flight.ask = lambda: 7
        measures.upstream_call("create", "throttled")
        measures.upstream_end_seen(-2.0)
        measures.video_archived(1_000, 0.2)
        measures.flow_run_started("batch", 3)
        text = httpx.get(f"http://{address}/metrics").text
    for line in (
        'kling_flows_upstream_calls_total{operation="create",outcome="throttled"} 1.0',
        'kling_flows_upstream_calls_total{operation="create",outcome="billing"} 0.0',
        "kling_flows_detection_lag_seconds_sum 0.0",
        "kling_flows_archived_bytes_total 1000.0",
        'kling_flows_video_tasks_carried_total{kind="batch"} 3.0',
        "kling_flows_video_tasks_in_flight 7.0",
    ):
        assert line in text.splitlines()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{address}/metrics")


@pytest.mark.parametrize("address", ["0.0.0.0:9000", "example.com:9000", "9000", "127.0.0.1:99999"])
def test_an_address_that_others_can_reach_or_that_is_none_is_refused(address: str) -> None:
    with (
        pytest.raises(ConfigurationError, match="KLING_FLOWS_RUNNER_METRICS_LISTEN"),
        runner_measures(Settings.load(runner_metrics_listen=address), InFlight()),
    ):
        pass


def test_an_address_that_is_taken_is_refused_with_a_remedy() -> None:
    settings = Settings.load(runner_metrics_listen=f"127.0.0.1:{free_port()}")
    with (
        runner_measures(settings, InFlight()),
        pytest.raises(ConfigurationError, match="stop what listens there"),
        runner_measures(settings, InFlight()),
    ):
        pass


def test_a_step_is_in_its_own_tasks_trace_even_in_the_flow_run_of_a_batch() -> None:
    kept, traced = Kept(), task("t", traceparent=CALLER.traceparent)
    with kept.recording():
        with span("flow run", root=True):
            batch = current_trace()
            with traced_step("submit", traced):
                in_batch = current_trace()
        with span("flow run", parent=CALLER):
            single = current_trace()
            with traced_step("wait", traced):
                in_single = current_trace()
        with traced_step("archive", task("u")):
            in_none = current_trace()
    parents = {span_id_of(done): parent_id_of(done) for done in kept.spans}
    assert batch is not None
    assert in_batch is not None
    assert (in_batch.trace_id, parents[in_batch.span_id]) == (CALLER.trace_id, CALLER.span_id)
    assert batch.trace_id != CALLER.trace_id
    assert single is not None
    assert in_single is not None
    assert parents[in_single.span_id] == single.span_id
    assert in_none is None
    assert [done.name for done in kept.spans].count("queued") == 2


def test_a_record_with_a_spoilt_traceparent_is_carried_all_the_same() -> None:
    with Kept().recording(), traced_step("submit", task("t", traceparent="nonsense")):
        assert current_trace() is None


def test_an_unsampled_trace_reaches_the_steps() -> None:
    unsampled = TraceContext(CALLER.trace_id, CALLER.span_id, sampled=False)
    with traced_step("submit", task("t", traceparent=unsampled.traceparent)):
        assert current_trace() == unsampled
