from __future__ import annotations

import json

import pytest

from kling_flows.upstream import UnreadableAnswer, UpstreamStatus, parse_callback

from .data import FIXTURES, load


@pytest.mark.parametrize(
    ("name", "status", "external_task_id"),
    [
        ("callback_legacy_submitted.json", UpstreamStatus.SUBMITTED, "ext-0001"),
        ("callback_legacy_succeed.json", UpstreamStatus.SUCCEEDED, "ext-0001"),
        ("callback_legacy_failed.json", UpstreamStatus.FAILED, "ext-0004"),
    ],
)
def test_legacy_body_is_read(name: str, status: UpstreamStatus, external_task_id: str) -> None:
    task = parse_callback((FIXTURES / name).read_bytes())
    assert (task.status, task.external_task_id) == (status, external_task_id)


def test_test_event_of_the_console_is_read() -> None:
    task = parse_callback(load("callback_test_event_doc.json")["raw_body"].encode())
    assert (task.task_id, task.status, task.videos) == ("913827032734642185", UpstreamStatus.SUBMITTED, ())


def test_standard_body_is_read() -> None:
    (body,) = load("newstd_tasks_get_doc_shape.json")["data"]
    task = parse_callback(json.dumps(body).encode())
    assert (task.task_id, task.status, len(task.videos)) == ("893605946402811985", UpstreamStatus.SUCCEEDED, 1)


def test_body_with_both_ids_is_legacy() -> None:
    task = parse_callback(b'{"id": "event-1", "task_id": "7", "task_status": "succeed"}')
    assert (task.task_id, task.status) == ("7", UpstreamStatus.SUCCEEDED)


def test_body_in_an_envelope_is_read() -> None:
    assert parse_callback(b'\xef\xbb\xbf{"code": 0, "data": {"id": "7", "status": "failed"}}').task_id == "7"
    assert parse_callback(b'{"code": 0, "data": {"task_id": "7"}}').task_id == "7"


@pytest.mark.parametrize(
    "raw", [b"", b" ", b"text", b"\xff\xfe", b"[]", b"null", b"{}", b'{"id": ""}', b'{"task_id": null}', b"[" * 100_000]
)
def test_anything_else_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        parse_callback(raw)
