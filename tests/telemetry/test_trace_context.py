from __future__ import annotations

import pytest

from kling_flows.telemetry.trace_context import parse_traceparent

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False), ("03", True), ("02", False)])
def test_a_traceparent_is_read_and_passed_on(flags: str, sampled: bool) -> None:
    place = parse_traceparent(f"00-{TRACE_ID}-{SPAN_ID}-{flags}")
    assert place is not None
    assert (place.trace_id, place.span_id, place.sampled) == (TRACE_ID, SPAN_ID, sampled)
    assert parse_traceparent(place.traceparent) == place


def test_a_later_version_may_say_more() -> None:
    place = parse_traceparent(f"42-{TRACE_ID}-{SPAN_ID}-01-what-we-do-not-know")
    assert place is not None
    assert place.traceparent == f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-more",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01\n",
        f"00-{TRACE_ID}-{SPAN_ID}-1",
        "00-" + "a" * 100_000,
        b"binary",
    ],
)
def test_what_is_no_traceparent_names_no_place(text: str | bytes) -> None:
    assert parse_traceparent(text) is None
