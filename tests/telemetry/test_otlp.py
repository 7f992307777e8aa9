from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

import pytest
from structlog.testing import capture_logs

from kling_flows.errors import ConfigurationError
from kling_flows.telemetry import sdk_logs
from kling_flows.telemetry.environment import traces_wanted
from kling_flows.telemetry.otlp import exporting
from kling_flows.telemetry.spans import span
from kling_flows.telemetry.trace_context import TraceContext, current_trace
from tests.stack import PATIENCE, until

from .collector import collecting

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
OTHER = TraceContext("5bf92f3577b34da6a3ce929d0e0e4736", "10f067aa0ba902b7", sampled=True)


@pytest.fixture(autouse=True)
def _no_variables_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def _set(monkeypatch: pytest.MonkeyPatch, url: str, **variables: str) -> None:
    for name, value in {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        **variables,
    }.items():
        monkeypatch.setenv(name, value)


async def test_a_span_arrives_with_all_that_is_known_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        _set(
            monkeypatch,
            f"{collector.url}/",
            OTEL_EXPORTER_OTLP_HEADERS="x-key=a%20b",
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment=tests,service.name=other",
        )
        async with exporting("tests"):
            with (
                pytest.raises(RuntimeError),
                span("work", parent=CALLER, links=[OTHER], attributes={"b": True, "i": 7, "f": 0.5, "s": "word"}),
            ):
                raise RuntimeError
    # What waited was sent at the end.
    [sent] = collector.spans()
    assert collector.headers[0]["x-key"] == "a b"
    assert (sent.trace_id, sent.parent_id) == (CALLER.trace_id, CALLER.span_id)
    assert (sent.name, sent.kind, sent.service) == ("work", "SPAN_KIND_INTERNAL", "other")
    assert sent.attributes == {"b": True, "i": 7, "f": 0.5, "s": "word", "error.type": "RuntimeError"}
    assert sent.links == [(OTHER.trace_id, OTHER.span_id)]
    assert sent.status == ("STATUS_CODE_ERROR", "RuntimeError")


async def test_a_collector_that_is_busy_is_asked_again_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collecting(503) as collector:
        _set(monkeypatch, collector.url)
        async with exporting("tests"):
            with span("later", parent=CALLER):
                pass
            until(collector.spans, "the span arrives at the second try")
            collector.statuses.append(400)
            with span("refused", parent=CALLER):
                pass
            until(lambda: not collector.statuses, "the span is refused")
            with span("next", parent=CALLER):
                pass
    assert [sent.name for sent in collector.spans()] == ["later", "next"]
    assert {sent.service for sent in collector.spans()} == {"tests"}


async def test_a_collector_that_is_away_costs_a_line_a_minute_without_its_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sdk_logs._told, "_again", {})
    _set(
        monkeypatch,
        "http://127.0.0.1:1",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://127.0.0.1:1/v1/traces?key=very-secret",
        # Too short for another try.
        OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
    )
    with capture_logs() as lines:
        async with exporting("tests"):
            with span("lost", parent=CALLER):
                pass
            until(lambda: lines, "the trouble is told")
            with span("lost too", parent=CALLER):
                pass
    assert [line["event"] for line in lines] == ["trouble with traces"]
    assert "spans" in lines[0]["problem"]
    assert "very-secret" not in str(lines)


def _python(code: str, **variables: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    subprocess.run([sys.executable, "-c", code], env=environment | variables, check=True, timeout=PATIENCE)


_SENDS = """
import asyncio
from kling_flows.telemetry.otlp import exporting
from kling_flows.telemetry.spans import span

async def main():
    async with exporting("tests"):
        with span("work", root=True):
            pass

asyncio.run(main())
"""


def test_a_collector_that_never_answers_does_not_keep_a_process_from_ending() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        _python(_SENDS, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    # By itself the SDK would take 30 seconds.
    assert time.monotonic() - begun < 25


def test_where_nothing_is_asked_for_the_front_imports_nothing_of_it() -> None:
    _python(f"import sys, grpc_server.process\n{_SENDS}\nassert 'opentelemetry' not in sys.modules")


async def test_without_the_extra_the_start_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "kling_flows.telemetry.recorder", raising=False)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'kling-flows[otel]'")):
        async with exporting("tests"):
            pass


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/x"}, True),
    ],
)
def test_the_standard_variables_say_whether_traces_are_sent(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], wanted: bool
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert traces_wanted() is wanted


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[half?key=secret", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:99999", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "secret", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "OTEL_EXPORTER_OTLP_TIMEOUT"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "tight", "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ("OTEL_RESOURCE_ATTRIBUTES", "word", "OTEL_RESOURCE_ATTRIBUTES"),
        ("OTEL_BSP_SCHEDULE_DELAY", "soon", "OTEL_BSP_SCHEDULE_DELAY"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1", "OTEL_*: the SDK says: schedule_delay_millis"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote", "OTEL_TRACES_SAMPLER"),
        ("OTEL_TRACES_SAMPLER_ARG", "2", "OTEL_TRACES_SAMPLER_ARG"),
    ],
)
async def test_a_variable_that_cannot_be_used_is_named_without_its_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    _set(monkeypatch, "https://127.0.0.1:1")
    if name == "OTEL_TRACES_SAMPLER_ARG":
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=re.escape(told)) as refused:
        async with exporting("tests"):
            pass
    shown = capsys.readouterr()
    assert "secret" not in refused.value.message + shown.out + shown.err


async def test_the_sampler_decides_which_traces_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        _set(monkeypatch, collector.url, OTEL_TRACES_SAMPLER="parentbased_always_off")
        async with exporting("tests"):
            with span("asked for", parent=CALLER):
                pass
            with span("begun here", root=True):
                begun = current_trace()
    assert [sent.name for sent in collector.spans()] == ["asked for"]
    assert begun is not None
    assert not begun.sampled


async def test_nothing_is_started_where_nothing_is_asked_for() -> None:
    before = set(threading.enumerate())
    async with exporting("tests"):
        with span("rpc", root=True):
            assert current_trace() is None
        assert set(threading.enumerate()) <= before
