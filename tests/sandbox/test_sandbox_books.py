"""The sandbox's own endpoints: charges, counts, tasks."""

from __future__ import annotations

import time
from collections.abc import Callable

from .caller import Api


def test_every_accepted_order_is_charged_once(api: Api) -> None:
    before = int(time.time() * 1000)
    first = api.created(external_task_id="ext-0001", prompt="a cup")
    second = api.created(model_name="kling-v2-6", mode="pro", sound="on", prompt="a bird")
    api.create(external_task_id="ext-0001")
    api.create(mode="standard")
    for _ in range(3):
        api.get(first)
    answer = api.http.get("/sandbox/charges").json()
    assert answer["count"] == 2
    created = [charge.pop("created_at") for charge in answer["charges"]]
    assert before <= created[0] <= created[1] <= int(time.time() * 1000)
    assert answer["charges"] == [
        {
            "task_id": first,
            "external_task_id": "ext-0001",
            "account": "kling",
            "model_name": "kling-v3",
            "units": 3.0,
            "prompt": "a cup",
            "refunded": False,
        },
        {
            "task_id": second,
            "external_task_id": None,
            "account": "kling",
            "model_name": "kling-v2-6",
            "units": 5.0,
            "prompt": "a bird",
            "refunded": False,
        },
    ]


def test_charge_is_refunded_when_the_task_fails(start: Callable[..., Api]) -> None:
    api = start(seconds=(1.0, 1.0))
    task_id = api.created(prompt="[sandbox:fail]")
    assert [charge["refunded"] for charge in api.server.charges()] == [False]
    api.wait_for(task_id, "failed")
    assert [charge["refunded"] for charge in api.server.charges()] == [True]


def test_charges_cannot_be_deleted(api: Api) -> None:
    api.created()
    assert api.http.delete("/sandbox/charges").status_code == 405
    assert len(api.server.charges()) == 1


def test_stats_count_calls_and_tasks(start: Callable[..., Api]) -> None:
    api = start(seconds=(60, 60))
    task_id = api.created()
    api.create(mode="standard")
    api.get(task_id)
    api.get("unknown")
    api.list()
    stats = api.http.get("/sandbox/stats").json()
    assert stats["calls"] == {"create": 2, "get": 2, "list": 1, "download": 0}
    assert stats["tasks"] == {"submitted": 1, "processing": 0, "succeed": 0, "failed": 0}
    assert stats["bytes_served"] == 0
    assert api.server.stats() == stats


def test_tasks_tell_when_they_became_final(start: Callable[..., Api]) -> None:
    api = start(seconds=(0.2, 0.2))
    before, before_monotonic = time.time() * 1000, time.monotonic() * 1000
    done = api.finished(external_task_id="ext-0001")
    after, after_monotonic = time.time() * 1000, time.monotonic() * 1000
    stuck = api.created(prompt="[sandbox:stuck]")
    answer = api.http.get("/sandbox/tasks").json()
    assert answer["count"] == 2
    first, second = answer["tasks"]
    assert (first["task_id"], first["external_task_id"]) == (done["task_id"], "ext-0001")
    assert first["status"] == "succeed"
    assert first["finished_at_ms"] == first["created_at_ms"] + 200 == done["updated_at"]
    assert before - 1 <= first["created_at_ms"] <= first["finished_at_ms"] <= after + 1
    assert before_monotonic - 1 <= first["created_monotonic_ms"]
    assert first["finished_monotonic_ms"] <= after_monotonic + 1
    assert (second["task_id"], second["finished_at_ms"], second["finished_monotonic_ms"]) == (stuck, None, None)


def test_unknown_endpoint_says_so(shared: Api) -> None:
    assert shared.http.get("/sandbox/nothing").status_code == 404
