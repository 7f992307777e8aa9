"""The front's metrics: what each figure is made of, and who may see them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from grpc_server.http.metrics import LedgerCollector
from kling_flows.engine.intake import new_video_task
from kling_flows.ledger import Figures, Lease, QuoteRecord, State
from kling_flows.upstream import Provider, TextToVideoRequest
from tests.front.access import ADS, READER
from tests.front.rig import Rig, Served, eventually, new_record, refused, upstream_record


class Scraped:
    """The answer to a scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def of(self, name: str, **labels: str) -> float | None:
        found = [s.value for s in self._samples if s.name == f"kling_flows_{name}" and s.labels == labels]
        assert len(found) < 2, f"{name} {labels} comes more than once"
        return found[0] if found else None


@asynccontextmanager
async def _client(served: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{served.front.http_address}", trust_env=False) as client:
        yield client


async def scrape(served: Served) -> Scraped:
    async with _client(served) as client:
        return Scraped((await client.get("/metrics")).raise_for_status().text)


@pytest.fixture
async def served(rig: Rig) -> Served:
    return await rig.serve(http_listen="127.0.0.1:0")


async def test_rpcs_are_counted_by_method_and_status(served: Served) -> None:
    task = await served.create()
    await served.get(task.name)
    await refused(served.get("videoTasks/none"))
    await refused(served.get("nonsense"))
    seen = await scrape(served)
    assert seen.of("rpcs_total", method="CreateVideoTask", code="OK") == 1
    assert seen.of("rpcs_total", method="GetVideoTask", code="OK") == 1
    assert seen.of("rpcs_total", method="GetVideoTask", code="NOT_FOUND") == 1
    assert seen.of("rpcs_total", method="GetVideoTask", code="INVALID_ARGUMENT") == 1
    assert seen.of("rpc_seconds_count", method="GetVideoTask") == 3
    assert seen.of("rpcs_open", method="GetVideoTask") == 0


async def test_methods_that_strangers_make_up_are_one_series(rig: Rig, access_file: Path) -> None:
    served = await rig.serve(http_listen="127.0.0.1:0", access_file=access_file)
    for method in ("Nonsense", "MoreNonsense"):
        call = served.channel.unary_unary(f"/kling_flows.v1.VideoTaskService/{method}")
        with pytest.raises(grpc.aio.AioRpcError):
            await call(b"")
    async with _client(served) as client:
        text = (await client.get("/metrics", headers={"authorization": f"Bearer {ADS}"})).text
    assert "Nonsense" not in text


async def test_a_bug_of_ours_counts_as_internal(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(served.ledger, "get", broken)
    assert (await refused(served.get("videoTasks/t"))).code is grpc.StatusCode.INTERNAL
    assert (await scrape(served)).of("rpcs_total", method="GetVideoTask", code="INTERNAL") == 1


async def test_watchers_are_counted_while_they_watch_and_have_no_duration(served: Served) -> None:
    watches = [served.watch() for _ in range(2)]
    for watch in watches:
        await watch.until_synced()
    assert (await scrape(served)).of("watchers") == 2
    for watch in watches:
        watch.cancel()

    async def gone() -> bool:
        return (await scrape(served)).of("watchers") == 0

    await eventually(gone)
    seen = await scrape(served)
    assert seen.of("rpcs_total", method="WatchVideoTasks", code="CANCELLED") == 2
    assert not seen.of("rpc_seconds_count", method="WatchVideoTasks")


async def test_tasks_are_counted_by_state_and_the_oldest_that_waits_has_its_age(served: Served) -> None:
    first, second, third = [await served.create() for _ in range(3)]
    await served.move(first.name, State.SUBMITTING)
    await served.cancel(second.name)

    async def ended() -> bool:
        return (await scrape(served)).of("video_tasks_ended_total", state="CANCELLED") == 1

    await eventually(ended)
    seen = await scrape(served)
    assert seen.of("video_tasks", state="QUEUED") == 1
    assert seen.of("video_tasks", state="SUBMITTING") == 1
    assert seen.of("video_tasks", state="UNRESOLVED") == 0
    assert seen.of("video_tasks", state="CANCELLED") is None
    age = seen.of("queue_age_seconds")
    assert age is not None
    assert 0 < age < 60
    await served.cancel(third.name)
    assert (await scrape(served)).of("queue_age_seconds") == 0


async def test_an_end_counts_once_even_if_its_video_comes_late(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    record = new_record("late")
    await ledger.create(record)
    served = await rig.serve(ledger, http_listen="127.0.0.1:0")
    await served.cancel("videoTasks/late")
    await served.touch("videoTasks/late")
    task = await served.create()
    await served.cancel(task.name)

    async def both() -> bool:
        return ((await scrape(served)).of("video_tasks_ended_total", state="CANCELLED") or 0) >= 2

    await eventually(both)
    assert (await scrape(served)).of("video_tasks_ended_total", state="CANCELLED") == 2


async def test_what_ended_before_the_start_is_no_news(rig: Rig) -> None:
    earlier = await rig.serve(http_listen="127.0.0.1:0")
    await earlier.cancel((await earlier.create()).name)
    later = await rig.serve(http_listen="127.0.0.1:0")
    assert (await scrape(later)).of("video_tasks_ended_total", state="CANCELLED") == 0


async def test_spending_is_told_by_tenant_and_budgets_by_what_is_left(rig: Rig) -> None:
    budgets = [{"tenant": "ads", "units": 10}, {"tenant": "*", "usd": 0}]
    served = await rig.serve(http_listen="127.0.0.1:0", budgets=budgets)
    for tenant, name in (("ads", "a"), ("ads", "b"), ("news", "c")):
        record = new_video_task(TextToVideoRequest(prompt="a cat"), Provider.SANDBOX, tenant=tenant, task_id=name)
        record = record.model_copy(update={"quote": QuoteRecord(units="2", usd="0.28")})
        await served.ledger.create(record)
    for state in (State.SUBMITTING, State.SUBMITTED, State.ARCHIVING):
        await served.ledger.advance(
            "a", lambda task, state=state: task.model_copy(update={"state": state, "upstream": upstream_record(task)})
        )
    seen = await scrape(served)
    assert seen.of("spend_units", tenant="ads", kind="settled") == 1.5
    assert seen.of("spend_units", tenant="ads", kind="reserved") == 2
    assert seen.of("spend_units", tenant="news", kind="reserved") == 2
    assert seen.of("spend_usd", tenant="news", kind="reserved") == 0.28
    assert seen.of("budget_used_ratio", budget="tenant:ads/account:*/month", unit="units") == 0.35
    assert seen.of("budget_used_ratio", budget="tenant:*/account:*/month", unit="usd") == 1
    assert seen.of("budget_used_ratio", budget="tenant:ads/account:*/month", unit="usd") is None


def test_a_lease_is_as_old_as_its_beat_was_seen_to_stand_still() -> None:
    collector = LedgerCollector()

    def age(**beats: int) -> float:
        leases = [Lease(runner_id=name, beat=beat, host="h", lock_file="/l") for name, beat in beats.items()]
        collector.show(Figures(leases=leases))
        return {metric.name: metric.samples for metric in collector.collect()}["kling_flows_lease_age_seconds"][0].value

    assert age(a=1, b=1) == 0
    standing = age(a=2, b=1)
    assert standing > 0
    assert age(a=3, b=1) > standing
    assert age(a=4, b=2) == 0
    assert age() == 0


async def test_while_the_ledger_does_not_answer_the_front_still_tells_of_itself(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.create()
    assert (await scrape(served)).of("ledger_up") == 1

    async def hanging() -> Figures:
        return await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(served.ledger, "read_figures", hanging)
    monkeypatch.setattr("grpc_server.http.metrics._READ_SECONDS", 0.1)
    seen = await scrape(served)
    assert seen.of("ledger_up") == 0
    assert seen.of("queue_age_seconds") is None
    assert seen.of("rpcs_total", method="CreateVideoTask", code="OK") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {READER}"}, 403),
        ({"authorization": f"Bearer {ADS}"}, 200),
    ],
    ids=["none", "unknown", "read only", "admin"],
)
async def test_with_an_access_file_only_an_admin_sees_the_figures_of_all(
    rig: Rig, access_file: Path, headers: Mapping[str, str], status: int
) -> None:
    served = await rig.serve(http_listen="127.0.0.1:0", access_file=access_file)
    async with _client(served) as client:
        response = await client.get("/metrics", headers=headers)
    assert response.status_code == status
    assert ("kling_flows_" in response.text) is (status == 200)
    assert response.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)


async def test_a_collector_that_asks_for_openmetrics_gets_it(served: Served) -> None:
    async with _client(served) as client:
        response = await client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")
