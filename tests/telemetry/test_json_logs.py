from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kling_flows.logs import FORMAT_VARIABLE, configure_logging
from kling_flows.telemetry.spans import span

from .test_spans import CALLER


@pytest.fixture(autouse=True)
def _defaults_afterwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(FORMAT_VARIABLE, "json")
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    for added in set(root.handlers).difference(before):
        if type(added) is logging.StreamHandler:
            root.removeHandler(added)
    structlog.reset_defaults()


def test_a_line_is_an_object_with_its_trace_and_a_traceback_without_local_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logging()
    authorization = "Bearer very-secret"
    with span("work", parent=CALLER):
        try:
            raise RuntimeError(f"no header of {len(authorization)} characters")
        except RuntimeError:
            structlog.get_logger().exception("it broke", video_task="t")
    shown = capsys.readouterr().err
    line = json.loads(shown)
    assert (line["event"], line["level"], line["video_task"]) == ("it broke", "error", "t")
    assert (line["trace_id"], line["span_id"]) == (CALLER.trace_id, CALLER.span_id)
    assert "RuntimeError: no header" in line["exception"]
    assert "very-secret" not in shown


def test_warnings_of_libraries_are_objects_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    logging.getLogger("some.library").warning("odd: %s", 7)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"]) == ("odd: 7", "warning")
    assert "timestamp" in line
