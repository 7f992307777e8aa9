from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from kling_flows.engine import looks as looks_module
from kling_flows.engine import polling
from kling_flows.engine.polling import PollPlanner
from kling_flows.sandbox import SandboxServer
from kling_flows.sandbox.text2video import STUCK_MARK
from kling_flows.upstream import (
    Account,
    ApiKeyCredentials,
    Dialect,
    Provider,
    TextToVideoRequest,
    UpstreamClient,
    UpstreamStatus,
    UpstreamTask,
)
from kling_flows.upstream.constants import SANDBOX_API_KEY

from .rig import until

INTERVAL = 0.1


@asynccontextmanager
async def _client(server: SandboxServer, provider: Provider = Provider.KLING) -> AsyncIterator[UpstreamClient]:
    base_url = server.url + ("/kling" if provider is Provider.COMETAPI else "")
    account = Account.of(provider, ApiKeyCredentials(SecretStr(SANDBOX_API_KEY)), base_url=base_url)
    async with UpstreamClient(account) as client:
        yield client


@asynccontextmanager
async def _planner(client: UpstreamClient, interval: float = INTERVAL) -> AsyncIterator[PollPlanner]:
    planner = PollPlanner(client, interval)
    async with planner.running():
        yield planner


async def _submit(client: UpstreamClient, number: int, prompt: str = "a cup") -> list[str]:
    request = TextToVideoRequest(prompt=prompt)
    return [(await client.create(request, f"ext-{prompt[:5]}-{n}")).task_id for n in range(number)]


async def _follow(planner: PollPlanner, task_id: str, typical: float = 0.0) -> list[UpstreamTask]:
    async with asyncio.timeout(60), aclosing(planner.follow(task_id, typical_seconds=typical, age_seconds=0)) as looks:
        return [seen async for seen in looks]


async def _follow_all(planner: PollPlanner, task_ids: list[str]) -> list[UpstreamTask]:
    return [seen[-1] for seen in await asyncio.gather(*(_follow(planner, task_id) for task_id in task_ids))]


async def test_each_change_is_told_once_and_the_end_last(start_sandbox: Callable[..., SandboxServer]) -> None:
    async with _client(start_sandbox(seconds=(1.0, 1.0))) as client, _planner(client) as planner:
        (task_id,) = await _submit(client, 1)
        seen = [task.status for task in await _follow(planner, task_id)]
    assert seen == [UpstreamStatus.PROCESSING, UpstreamStatus.SUCCEEDED]


@pytest.mark.parametrize(("number", "lists"), [(3, False), (4, True), (40, True)])
async def test_a_list_is_asked_for_as_soon_as_it_is_cheaper(
    start_sandbox: Callable[..., SandboxServer], number: int, lists: bool
) -> None:
    server = start_sandbox(seconds=(0.5, 0.5))
    async with _client(server) as client, _planner(client) as planner:
        task_ids = await _submit(client, number)
        ended = await _follow_all(planner, task_ids)
    assert [task.task_id for task in ended] == task_ids
    assert {task.status for task in ended} == {UpstreamStatus.SUCCEEDED}
    calls = server.stats()["calls"]
    if lists:
        # What the tick before has left over, fewer than make a list, may be asked for singly.
        assert calls["list"] >= 1
        assert calls["get"] < number
    else:
        assert calls["list"] == 0
        assert calls["get"] >= number


async def test_where_there_is_no_list_none_is_asked_for(start_sandbox: Callable[..., SandboxServer]) -> None:
    server = start_sandbox(seconds=(0.3, 0.3))
    async with _client(server, Provider.COMETAPI) as client, _planner(client) as planner:
        ended = await _follow_all(planner, await _submit(client, 8))
    assert {task.status for task in ended} == {UpstreamStatus.SUCCEEDED}
    assert server.stats()["calls"]["list"] == 0


async def test_what_the_list_does_not_show_is_asked_for_singly(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The list is too long to be read to its end, where the followed tasks are.
    monkeypatch.setattr(looks_module, "_PAGE_SIZE", 3)
    async with _client(sandbox) as client, _planner(client) as planner:
        task_ids = await _submit(client, 5)
        await _submit(client, 30, "newer")
        ended = await _follow_all(planner, task_ids)
    assert [task.task_id for task in ended] == task_ids
    calls = sandbox.stats()["calls"]
    assert calls["list"] >= 1
    assert calls["get"] >= 5


@pytest.mark.parametrize("number", [1, 6], ids=["singly", "by list"])
@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "http_error", "code": 5000},
        {"fault": "http_error", "code": 1303},
        {"fault": "http_error", "code": 1000},
        {"fault": "throttle"},
        {"fault": "drop_before_accept"},
        {"fault": "html"},
        {"fault": "truncated_json"},
        {"fault": "empty"},
    ],
    ids=lambda fault: f"{fault['fault']}-{fault.get('code', '')}",
)
async def test_a_look_that_fails_is_only_missed(sandbox: SandboxServer, fault: dict[str, object], number: int) -> None:
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        task_ids = await _submit(client, number)
        sandbox.set_faults([{**fault, "on": operation, "times": 1} for operation in ("get", "list")])
        ended = await _follow_all(planner, task_ids)
    assert {task.status for task in ended} == {UpstreamStatus.SUCCEEDED}


@pytest.mark.parametrize("number", [1, 6], ids=["singly", "by list"])
async def test_looks_that_keep_failing_become_fewer(sandbox: SandboxServer, number: int) -> None:
    operation = "get" if number == 1 else "list"
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        task_ids = await _submit(client, number)
        sandbox.set_faults([{"fault": "http_error", "on": operation, "code": 5000, "times": 4}])
        following = asyncio.create_task(_follow_all(planner, task_ids))
        await until(lambda: sandbox.stats()["calls"][operation] >= 1)
        began = asyncio.get_running_loop().time()
        await following
    # 0.1, 0.2, 0.4 and 0.8 s, each up to a tenth shorter.
    assert asyncio.get_running_loop().time() - began > 1.3


async def test_one_task_that_cannot_be_read_does_not_hold_up_the_others(sandbox: SandboxServer) -> None:
    async with _client(sandbox, Provider.COMETAPI) as client, _planner(client, 0.05) as planner:
        (bad,) = await _submit(client, 1, "cursed")
        good = await _submit(client, 1, f"slow {STUCK_MARK}")
        sandbox.set_faults([{"fault": "http_error", "on": "get", "code": 5000, "match": "cursed"}])
        following = [asyncio.create_task(_follow(planner, task_id)) for task_id in (bad, *good)]
        # With back-off for both, 25 looks would take longer than a test may.
        await until(lambda: sandbox.stats()["calls"]["get"] >= 25)
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_the_provider_s_wish_to_wait_is_honoured(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        task_ids = await _submit(client, 1)
        sandbox.set_faults([{"fault": "throttle", "on": "get", "retry_after": 1, "times": 1}])
        began = asyncio.get_running_loop().time()
        await _follow_all(planner, task_ids)
    assert asyncio.get_running_loop().time() - began > 0.9


async def test_the_first_look_is_put_off_for_as_long_as_nothing_can_be_seen(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        (task_id,) = await _submit(client, 1)
        began = asyncio.get_running_loop().time()
        await _follow(planner, task_id, typical=1.0)
    assert asyncio.get_running_loop().time() - began > 0.5
    assert sandbox.stats()["calls"]["get"] == 1


async def test_a_hint_is_followed_at_once(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        (task_id,) = await _submit(client, 1)
        following = asyncio.create_task(_follow(planner, task_id, typical=3600.0))
        await asyncio.sleep(0)
        planner.look_now("unknown")
        planner.look_now(task_id)
        assert (await following)[-1].status is UpstreamStatus.SUCCEEDED


async def test_following_can_be_stopped(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client) as planner:
        one, two, three = await _submit(client, 3, STUCK_MARK)
        following = {task_id: asyncio.create_task(_follow(planner, task_id)) for task_id in (one, two, three)}
        await until(lambda: sandbox.stats()["calls"]["get"] >= 3)
        planner.stop_following("unknown")
        planner.stop_following(one)
        await following[one]
        assert not following[two].done()
        planner.stop()
        for task in following.values():
            assert {seen.status for seen in await task} <= {UpstreamStatus.SUBMITTED, UpstreamStatus.PROCESSING}


async def test_a_task_that_is_followed_anew_is_not_forgotten_with_the_first_follower(
    start_sandbox: Callable[..., SandboxServer],
) -> None:
    async with _client(start_sandbox(seconds=(0.6, 0.6))) as client, _planner(client) as planner:
        (task_id,) = await _submit(client, 1)
        # Abandoned by an error, and closed only when its traceback is let go of.
        first = planner.follow(task_id, typical_seconds=0, age_seconds=0)
        await anext(first)
        second = asyncio.create_task(_follow(planner, task_id))
        await asyncio.sleep(0)
        await first.aclose()
        assert (await second)[-1].status is UpstreamStatus.SUCCEEDED


async def test_nobody_looks_again_while_an_end_is_written_down(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 0.05) as planner:
        (task_id,) = await _submit(client, 1)
        async with aclosing(planner.follow(task_id, typical_seconds=0, age_seconds=0)) as looks:
            assert (await anext(looks)).status is UpstreamStatus.SUCCEEDED
            assert planner._followed == {}


async def test_a_task_that_the_provider_does_not_show_yet_is_waited_for(
    start_sandbox: Callable[..., SandboxServer],
) -> None:
    server = start_sandbox(lookup_lag=0.5)
    async with _client(server) as client, _planner(client, 0.05) as planner:
        ended = await _follow_all(planner, await _submit(client, 1))
    assert ended[-1].status is UpstreamStatus.SUCCEEDED
    assert server.stats()["calls"]["get"] > 1


def _standard_account(server: SandboxServer) -> Account:
    credentials = ApiKeyCredentials(SecretStr(SANDBOX_API_KEY))
    return Account.of(Provider.SANDBOX, credentials, base_url=server.url, dialect=Dialect.STANDARD)


@asynccontextmanager
async def _standard_client(server: SandboxServer) -> AsyncIterator[UpstreamClient]:
    async with UpstreamClient(_standard_account(server)) as client:
        yield client


def _reads(server: SandboxServer) -> int:
    return sum(count for call, count in server.stats()["calls"].items() if call != "create")


async def test_twenty_tasks_share_one_call_in_the_standard_dialect(start_sandbox: Callable[..., SandboxServer]) -> None:
    server = start_sandbox()
    async with _standard_client(server) as client, _planner(client) as planner:
        task_ids = await _submit(client, 40)
        ended = await _follow_all(planner, task_ids)
    assert [task.task_id for task in ended] == task_ids
    assert {task.status for task in ended} == {UpstreamStatus.SUCCEEDED}
    assert _reads(server) == 2


async def test_tasks_of_any_age_are_looked_at_together(start_sandbox: Callable[..., SandboxServer]) -> None:
    server = start_sandbox(seconds=(3600.0, 3600.0))
    async with _standard_client(server) as client, _planner(client, 0.3) as planner:
        task_ids = await _submit(client, 10)
        following: list[asyncio.Task[list[UpstreamTask]]] = []
        for task_id in task_ids:
            following.append(asyncio.create_task(_follow(planner, task_id)))
            await asyncio.sleep(0.03)
        began, before = asyncio.get_running_loop().time(), _reads(server)
        await until(lambda: _reads(server) >= before + 4)
        # One call a tick, wherever between two ticks a task was begun.
        assert asyncio.get_running_loop().time() - began > 3 * 0.3 * 0.9 - 0.1
        for task in following:
            task.cancel()
        await asyncio.wait(following)


async def test_a_task_that_only_came_along_keeps_its_own_first_look(
    start_sandbox: Callable[..., SandboxServer],
) -> None:
    server = start_sandbox(seconds=(0.5, 0.5))
    async with _standard_client(server) as client, _planner(client, 0.1) as planner:
        early, late = await _submit(client, 2)
        waiting = asyncio.create_task(_follow(planner, late, typical=3600.0))
        await asyncio.sleep(0)
        await _follow(planner, early)
        # It was shown with the other's looks, for nothing, and is not looked at for its own sake.
        calls = _reads(server)
        await asyncio.sleep(0.5)
        assert _reads(server) == calls
        waiting.cancel()
        await asyncio.wait({waiting})


async def test_hints_that_come_together_share_a_call(start_sandbox: Callable[..., SandboxServer]) -> None:
    server = start_sandbox()
    async with _standard_client(server) as client, _planner(client, 3600.0) as planner:
        task_ids = await _submit(client, 20)
        following = [asyncio.create_task(_follow(planner, task_id)) for task_id in task_ids]
        await asyncio.sleep(0)
        for task_id in task_ids:
            planner.look_now(task_id)
            planner.look_now(task_id)
        await asyncio.gather(*following)
    assert _reads(server) == 1


class _GatedClient(UpstreamClient):
    """A client whose calls about tasks with a closed gate wait until it is opened."""

    def __init__(self, account: Account) -> None:
        super().__init__(account)
        self.asked: list[tuple[str, ...]] = []
        self.closed: dict[str, asyncio.Event] = {}

    def close_gate(self, task_id: str) -> asyncio.Event:
        return self.closed.setdefault(task_id, asyncio.Event())

    async def get_many(self, task_ids: Sequence[str]) -> Sequence[UpstreamTask]:
        self.asked.append(tuple(task_ids))
        for gate in [self.closed[task_id] for task_id in task_ids if task_id in self.closed]:
            await gate.wait()
        return await super().get_many(task_ids)


@asynccontextmanager
async def _gated_client(server: SandboxServer) -> AsyncIterator[_GatedClient]:
    async with _GatedClient(_standard_account(server)) as client:
        yield client


@asynccontextmanager
async def _all_followed(planner: PollPlanner, task_ids: list[str]) -> AsyncIterator[dict[str, asyncio.Task[Any]]]:
    following = {task_id: asyncio.create_task(_follow(planner, task_id)) for task_id in task_ids}
    await until(lambda: planner._followed.keys() == following.keys())
    try:
        yield following
    finally:
        for task in following.values():
            task.cancel()
        await asyncio.wait(following.values())


async def test_a_hint_does_not_wait_for_the_look_at_another(sandbox: SandboxServer) -> None:
    async with _gated_client(sandbox) as client, _planner(client, 3600.0) as planner:
        one, two = await _submit(client, 2)
        client.close_gate(one)
        async with _all_followed(planner, [one, two]) as following:
            planner.look_now(one)
            await until(lambda: client.asked == [(one,)])
            planner.look_now(two)
            assert (await following[two])[-1].status is UpstreamStatus.SUCCEEDED
            assert not following[one].done()


async def test_looks_that_fail_together_are_one_reason_to_wait_longer(sandbox: SandboxServer) -> None:
    async with _gated_client(sandbox) as client, _planner(client, 3600.0) as planner:
        tasks = await _submit(client, 4)
        gates = [client.close_gate(task_id) for task_id in tasks]
        async with _all_followed(planner, tasks):
            for number, task_id in enumerate(tasks, start=1):
                planner.look_now(task_id)
                await until(lambda number=number: len(client.asked) == number)
            sandbox.set_faults([{"fault": "http_error", "on": "get", "code": 5000}])
            for gate in gates:
                gate.set()
            await until(lambda: sandbox.stats()["calls"]["get"] == len(tasks) and not planner._hinted_looks)
            assert planner._failures == 1


async def test_a_hint_does_not_wait_for_the_looks_at_a_tick(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks_module, "_CONCURRENCY", 1)
    async with _gated_client(sandbox) as client, _planner(client, 0.05) as planner:
        one, two = await _submit(client, 2)
        client.close_gate(one)
        async with _all_followed(planner, [one]):
            await until(lambda: client.asked == [(one,)])
            second = asyncio.create_task(_follow(planner, two))
            planner.look_now(two)
            assert (await second)[-1].status is UpstreamStatus.SUCCEEDED
            assert client.asked == [(one,), (two,)]


async def test_a_task_is_looked_at_again_if_a_hint_comes_during_the_look(
    start_sandbox: Callable[..., SandboxServer],
) -> None:
    server = start_sandbox(seconds=(3600.0, 3600.0))
    async with _gated_client(server) as client, _planner(client, 3600.0) as planner:
        (task_id,) = await _submit(client, 1)
        gate = client.close_gate(task_id)
        async with _all_followed(planner, [task_id]):
            planner.look_now(task_id)
            await until(lambda: len(client.asked) == 1)
            planner.look_now(task_id)
            planner.look_now(task_id)
            await until(lambda: not planner._hints.is_set())
            # The answer that is on its way may be older; a second question beside it would cost a call more.
            assert len(client.asked) == 1
            gate.set()
            await until(lambda: len(client.asked) == 2)


async def test_hints_that_come_while_all_calls_are_under_way_share_the_next(
    sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks_module, "_HINTED_CONCURRENCY", 2)
    async with _gated_client(sandbox) as client, _planner(client, 3600.0) as planner:
        one, two, *others = await _submit(client, 22)
        gates = [client.close_gate(task_id) for task_id in (one, two)]
        async with _all_followed(planner, [one, two, *others]) as following:
            for number, task_id in enumerate((one, two), 1):
                planner.look_now(task_id)
                await until(lambda number=number: len(client.asked) == number)
            for task_id in others:
                planner.look_now(task_id)
                if task_id in others[::5]:
                    await until(lambda: not planner._hints.is_set())
            assert client.asked == [(one,), (two,)]
            gates[0].set()
            await asyncio.gather(*(following[task_id] for task_id in others))
            assert client.asked[2:] == [tuple(others)]


async def test_where_looks_are_by_list_hinted_ones_do_not_overlap(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 3600.0) as planner:
        task_ids = await _submit(client, 8)
        sandbox.set_faults([{"fault": "slow", "on": "list", "seconds": 0.5, "times": 1}])
        async with _all_followed(planner, task_ids) as following:
            for task_id in task_ids[:4]:
                planner.look_now(task_id)
            await until(lambda: sandbox.stats()["calls"]["list"] == 1)
            planner.look_now(task_ids[4])
            await asyncio.gather(*(following[task_id] for task_id in task_ids[:5]))
    # The one page has shown all.
    assert sandbox.stats()["calls"] | {"create": 0} == {call: int(call == "list") for call in sandbox.stats()["calls"]}


async def test_whoever_follows_a_task_anew_takes_the_place_of_the_one_before(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 3600.0) as planner:
        (task_id,) = await _submit(client, 1)
        async with _all_followed(planner, [task_id]) as following:
            anew = asyncio.create_task(_follow(planner, task_id))
            assert await following[task_id] == []
            planner.look_now(task_id)
            assert (await anew)[-1].status is UpstreamStatus.SUCCEEDED


async def test_a_hint_that_comes_before_the_task_is_followed_is_kept(sandbox: SandboxServer) -> None:
    async with _client(sandbox) as client, _planner(client, 3600.0) as planner:
        (task_id,) = await _submit(client, 1)
        planner.look_now(task_id)
        assert (await _follow(planner, task_id))[-1].status is UpstreamStatus.SUCCEEDED


async def test_looks_come_sooner_where_a_call_shows_very_many(
    start_sandbox: Callable[..., SandboxServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_MANY_PER_CALL", 0.001)
    monkeypatch.setattr(polling, "_SHORTEST_SECONDS", 0.05)
    server = start_sandbox(seconds=(3600.0, 3600.0))
    async with _client(server) as client, _planner(client, 3600.0) as planner:
        task_ids = await _submit(client, 8)
        following = [asyncio.create_task(_follow(planner, task_id)) for task_id in task_ids]
        await asyncio.sleep(0)
        for task_id in task_ids:
            planner.look_soon(task_id)
        await until(lambda: server.stats()["calls"]["list"] >= 3)
        for task in following:
            task.cancel()
        await asyncio.wait(following)


@pytest.mark.parametrize(
    ("due", "pages", "expected"),
    [
        (0, 1, 5.0),
        (100, 1, 5.0),
        (200, 1, 2.5),
        (500, 1, 1.5),
        (1_000, 2, 1.5),
        (2_000, 4, 2.0),
        (5_000, 10, 5.0),
        (10_000, 20, 5.0),
    ],
)
async def test_the_more_a_call_shows_the_sooner_is_the_next_within_what_calls_may_cost(
    sandbox: SandboxServer, due: int, pages: int, expected: float
) -> None:
    async with _client(sandbox) as client:
        planner = PollPlanner(client, 5.0)
        planner._looker._pages = pages
        assert planner._interval_for(due) == pytest.approx(expected)


async def test_where_calls_are_by_ids_or_single_looks_keep_to_the_interval(sandbox: SandboxServer) -> None:
    async with _standard_client(sandbox) as standard, _client(sandbox, Provider.COMETAPI) as single:
        assert PollPlanner(standard, 5.0)._interval_for(5_000) == 5.0
        assert PollPlanner(single, 5.0)._interval_for(5_000) == 5.0


@pytest.mark.parametrize(
    ("age", "called_back", "fruitless", "expected"),
    [
        (10.0, False, 0, 3.0),
        (10.0, True, 0, polling.RECONCILE_SECONDS),
        (900.0, False, 0, 5.0),
        (40_000.0, False, 0, 60.0),
        (90_000.0, False, 0, 600.0),
        (90_000.0, True, 0, 600.0),
        (10.0, False, 10, 3.0),
        (10.0, False, 11, 3.3),
        (10.0, False, 199, 60.0),
    ],
)
def test_looks_become_fewer_the_less_they_promise(
    age: float, called_back: bool, fruitless: int, expected: float
) -> None:
    followed = polling._Followed("1", began=0.0, typical=180.0, called_back=called_back, urlless=fruitless)
    assert followed.pace(age, 3.0) == pytest.approx(expected, rel=0.01)
