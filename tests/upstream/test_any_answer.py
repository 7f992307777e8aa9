"""Whatever comes over the wire, reading it ends in a result or in the one error that says that it cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_flows.upstream import UnreadableAnswer, UpstreamError, account_usage, legacy, parse_callback, standard
from kling_flows.upstream.refusals import classify, is_refusal

KEYS = [
    "amount",
    "billing",
    "charge_type",
    "code",
    "create_time",
    "created_at",
    "data",
    "deduction_time",
    "duration",
    "error",
    "final_balance_deduction",
    "final_unit_deduction",
    "has_more",
    "id",
    "list_price",
    "message",
    "msg",
    "next_cursor",
    "outputs",
    "quota",
    "request_id",
    "resource_pack_subscribe_infos",
    "result",
    "status",
    "task_id",
    "task_info",
    "task_result",
    "task_status",
    "url",
    "video_sound",
    "videos",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e999999999", "-1e-999999999", "NaN", "5.041", "succeed", "unit", "cash", "1201", "\ud800"])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=8)

READERS: list[Callable[[Mapping[str, Any]], object]] = [
    legacy.parse_task,
    legacy.parse_list,
    standard.parse_task,
    standard.parse_tasks,
    standard.parse_page,
    account_usage.parse_costs,
    account_usage.parse_deductions,
    lambda payload: parse_callback(json.dumps(payload).encode()),
]


@pytest.mark.parametrize("read", READERS, ids=lambda read: f"{read.__module__}.{read.__name__}")
@settings(max_examples=100, deadline=None)
@given(payload=OBJECTS)
def test_answer_is_read_or_unreadable(read: Callable[[Mapping[str, Any]], object], payload: dict[str, Any]) -> None:
    try:
        read(payload)
    except UnreadableAnswer:
        return


@settings(max_examples=200, deadline=None)
@given(payload=OBJECTS, status=st.integers(100, 599), creating=st.booleans())
def test_answer_is_always_classed(payload: dict[str, Any], status: int, creating: bool) -> None:
    assert isinstance(is_refusal(payload), bool)
    assert isinstance(classify(status, payload, creating=creating, headers={}), UpstreamError)
