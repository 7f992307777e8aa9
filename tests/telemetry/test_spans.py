from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.trace import StatusCode

from kling_flows.errors import ServerUnavailable
from kling_flows.telemetry.spans import record, span
from kling_flows.telemetry.trace_context import TraceContext, current_trace

from .kept import Kept, parent_id_of, span_id_of, trace_id_of

CALLER = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    with kept.recording():
        yield kept


def test_without_a_recorder_the_callers_place_is_passed_on_as_it_is() -> None:
    with span("rpc", parent=CALLER, root=True), span("inside"):
        assert current_trace() is CALLER
    with span("rpc", root=True):
        assert current_trace() is None
    assert current_trace() is None


def test_spans_are_nested_in_the_callers_trace(kept: Kept) -> None:
    with span("outer", parent=CALLER), span("inner"):
        current = current_trace()
    inner, outer = kept.spans
    assert (inner.name, outer.name) == ("inner", "outer")
    assert current == TraceContext(CALLER.trace_id, span_id_of(inner), sampled=True)
    assert (parent_id_of(inner), parent_id_of(outer)) == (span_id_of(outer), CALLER.span_id)
    assert {trace_id_of(done) for done in kept.spans} == {CALLER.trace_id}
    assert inner.parent is not None
    assert outer.parent is not None
    assert (inner.parent.is_remote, outer.parent.is_remote) == (False, True)
    assert current_trace() is None


def test_what_belongs_to_no_trace_is_not_recorded_unless_it_begins_one(kept: Kept) -> None:
    with span("ledger write"):
        assert current_trace() is None
    with span("rpc", root=True):
        current = current_trace()
    [root] = kept.spans
    assert (root.name, root.parent) == ("rpc", None)
    assert current == TraceContext(trace_id_of(root), span_id_of(root), sampled=True)


def test_a_trace_that_nobody_records_is_passed_on_and_not_recorded(kept: Kept) -> None:
    unsampled = TraceContext(CALLER.trace_id, CALLER.span_id, sampled=False)
    with span("rpc", parent=unsampled):
        current = current_trace()
        record("queued", unsampled, datetime.now(UTC), datetime.now(UTC))
    assert current is not None
    assert (current.trace_id, current.sampled) == (CALLER.trace_id, False)
    assert kept.spans == []


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ServerUnavailable("it drains"), "SERVER_UNAVAILABLE", "it drains"),
        (RuntimeError("Bearer very-secret"), "RuntimeError", "RuntimeError"),
    ],
)
def test_an_error_is_told_in_words_that_hold_no_secret(kept: Kept, error: Exception, kind: str, words: str) -> None:
    with pytest.raises(type(error)), span("submit", parent=CALLER):
        raise error
    [failed] = kept.spans
    assert failed.attributes == {"error.type": kind}
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, words)
    assert not failed.events


def test_what_was_settled_stays_so_when_an_exception_passes(kept: Kept) -> None:
    def fail_afterwards() -> None:
        with span("rpc", parent=CALLER) as rpc:
            rpc.settle()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_afterwards()
    [settled] = kept.spans
    assert (settled.status.status_code, settled.attributes) == (StatusCode.OK, {})


async def test_a_cancel_is_no_failure(kept: Kept) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        with span("wait", parent=CALLER):
            begun.set()
            await asyncio.Event().wait()

    working = asyncio.create_task(work())
    await begun.wait()
    working.cancel()
    await asyncio.wait({working})
    [cancelled] = kept.spans
    assert cancelled.attributes == {"kling_flows.cancelled": True}
    assert cancelled.status.status_code is StatusCode.UNSET


def test_what_is_over_is_recorded_with_its_own_times(kept: Kept) -> None:
    end = datetime.now(UTC)
    record("queued", CALLER, end - timedelta(seconds=2), end, {"a": 1})
    [queued] = kept.spans
    assert queued.start_time is not None
    assert queued.end_time == queued.start_time + 2_000_000_000
    assert (parent_id_of(queued), queued.attributes) == (CALLER.span_id, {"a": 1})
