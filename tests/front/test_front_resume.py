"""Going on after a disconnect: nothing is missed and nothing comes twice."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import defaultdict
from typing import Any

import grpc
import pytest

from grpc_server.hub import Hub
from grpc_server.names import name_of
from grpc_server.tokens import Tokens
from grpc_server.watch import Watch
from grpc_server.watch_plan import parse_watch
from kling_flows.errors import LedgerUnavailable, ServerUnavailable
from kling_flows.ledger import State
from kling_flows.v1.video_task_service_pb2 import WatchVideoTasksRequest

from .rig import PATIENCE, Refusal, Rig, Served, Stream, new_record, refused, sights


class Watcher:
    """Watches to the end through as many disconnects as chance wills, and keeps what it saw."""

    def __init__(self, served: Served, chance: random.Random, *, slow: bool, **fields: Any) -> None:
        self._served = served
        self._chance = chance
        self._slow = slow
        self._fields = fields
        self.token = ""
        self.disconnects = 0
        self.synced = asyncio.Event()
        self.seen: list[tuple[str, int]] = []

    async def run(self, count: int, disconnects: int) -> None:
        while len(self.seen) < count:
            stream = self._served.watch(resume_token=self.token, **self._fields)
            patience = self._chance.randint(0, 3) if self.disconnects < disconnects else 10**9
            await self._read(stream, patience, count)
            stream.cancel()
            self.disconnects += 1

    async def _read(self, stream: Stream, messages: int, count: int) -> None:
        while messages and len(self.seen) < count:
            message = await stream.next()
            if self._slow:
                await asyncio.sleep(0.01)
            self.seen += sights(message.video_tasks)
            self.token = message.resume_token
            if message.synced:
                self.synced.set()
            messages -= 1


@pytest.mark.parametrize("ring", [4_096, 16])
async def test_every_watcher_sees_every_event_once_and_in_order_through_hundreds_of_disconnects(
    served: Served, monkeypatch: pytest.MonkeyPatch, ring: int
) -> None:
    monkeypatch.setattr("grpc_server.hub.RING_SIZE", ring)
    monkeypatch.setattr("grpc_server.hub._TRIM", 8)
    events, watchers, disconnects = 300, 8, 30
    chance = random.Random(ring)
    team = [Watcher(served, random.Random(number), slow=number % 4 == 0) for number in range(watchers)]
    runs = [asyncio.create_task(watcher.run(events, disconnects)) for watcher in team]
    await asyncio.gather(*(watcher.synced.wait() for watcher in team))
    names: list[str] = []
    expected: dict[str, int] = {}
    for _ in range(events):
        if len(names) < 20 or chance.random() < 0.1:
            names.append((await served.create()).name)
            expected[names[-1]] = 1
        else:
            name = chance.choice(names)
            await served.touch(name)
            expected[name] += 1
        await asyncio.sleep(chance.random() * 0.004)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*runs)

    assert sum(watcher.disconnects for watcher in team) >= 200
    log = [(name_of(event.task.id), event.task.revision) for event in await served.ledger.read_events(0, 1_000)]
    for watcher in team:
        assert watcher.seen == log
        assert dict(watcher.seen) == expected


async def test_a_snapshot_that_breaks_while_tasks_change_goes_on_where_it_broke(served: Served) -> None:
    names = [f"videoTasks/v{number}" for number in range(350)]
    for name in names:
        await served.ledger.create(new_record(name.removeprefix("videoTasks/")))
    chance = random.Random(7)
    seen: dict[str, list[int]] = defaultdict(list)
    token, synced, changes = "", False, 0
    while not synced:
        stream = served.watch(resume_token=token)
        for name in chance.sample(names, 5) if changes < 50 else []:
            await served.touch(name)
            changes += 1
        message = await stream.next()
        stream.cancel()
        token, synced = message.resume_token, message.synced
        for task in message.video_tasks:
            seen[task.name].append(task.revision)

    assert set(seen) == set(names)
    assert changes >= 20
    for name, revisions in seen.items():
        current = (await served.get(name)).revision
        assert revisions == list(range(revisions[0], current + 1))


async def test_what_changes_while_the_snapshot_is_read_is_shown_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task moves just before and just after the look that the snapshot takes at it."""
    early, late, kept = [(await served.create()).name for _ in range(3)]
    list_tasks = served.ledger.list_tasks

    async def interrupted(**fields: Any) -> Any:
        await served.move(early, State.SUBMITTING)
        rows = await list_tasks(**fields)
        await served.move(late, State.SUBMITTING)
        return rows

    stream = served.watch()
    monkeypatch.setattr(served.ledger, "list_tasks", interrupted)
    tasks = await stream.until_synced()

    assert sights(tasks) == [(kept, 1), (early, 2), (late, 2)]


async def test_the_token_of_a_broken_snapshot_does_not_serve_another_watch(served: Served) -> None:
    for number in range(150):
        await served.ledger.create(new_record(f"v{number}"))
    token = (await served.watch().next()).resume_token

    assert (await refused(served.watch(resume_token=token, filter="state = QUEUED").next())).reason == "TOKEN_INVALID"
    assert len(await served.watch(resume_token=token).until_synced()) == 50


async def test_a_token_goes_on_at_another_front_with_another_filter(rig: Rig) -> None:
    one, two = await rig.serve(), await rig.serve()
    stream = one.watch()
    await stream.until_synced()
    await two.create(labels={"a": "b"})
    name = (await one.create(labels={"a": "c"})).name

    assert sights(await two.watch(resume_token=stream.token, filter="labels.a = c").until_synced()) == [(name, 1)]


async def test_a_resumed_watch_says_synced_once_it_has_caught_up(served: Served) -> None:
    token = (await served.list()).resume_token
    for number in range(250):
        await served.ledger.create(new_record(f"v{number}"))
    stream = served.watch(resume_token=token)
    tasks = await stream.until_synced()
    name = (await served.create()).name

    assert [task.name for task in tasks] == [f"videoTasks/v{number}" for number in range(250)]
    assert sights(await stream.take(1)) == [(name, 1)]


async def test_a_token_that_was_tampered_with_or_is_of_another_ledger_is_refused(
    served: Served, tmp_path_factory: pytest.TempPathFactory, rig: Rig
) -> None:
    await served.create()
    await served.create()
    page = await served.list(page_size=1)
    token = page.resume_token
    other = "B" if token[10] == "A" else "A"
    rig.url = f"sqlite:///{tmp_path_factory.mktemp('other') / 'ledger.db'}"
    foreign = (await (await rig.serve()).list()).resume_token
    for wrong in (
        token[:10] + other + token[11:],
        token[:-1],
        token + "AAAA",
        token + "=",
        f" {token}",
        page.next_page_token,
        foreign,
        "0",
        "not a token",
        "A" * 10_000,
    ):
        refusal = await refused(served.watch(resume_token=wrong).next())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_INVALID")


async def test_a_token_older_than_the_log_is_expired(rig: Rig) -> None:
    served = await rig.serve()
    start = (await served.list()).resume_token
    tokens: list[str] = []
    for _ in range(5):
        await served.create()
        tokens.append((await served.list()).resume_token)
    _forget(rig, before=4)
    for token in (start, tokens[0], tokens[1]):
        refusal = await refused(served.watch(resume_token=token).next())
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")
    assert len(await served.watch(resume_token=tokens[2]).until_synced()) == 2
    assert len(await served.watch().until_synced()) == 5


async def test_a_reader_whose_next_events_were_forgotten_is_told_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpc_server.hub.RING_SIZE", 4)
    monkeypatch.setattr("grpc_server.hub._TRIM", 2)
    served = await rig.serve()
    start = (await served.list()).resume_token
    for _ in range(20):
        await served.create()
    everything = served.watch()
    await everything.until_synced()
    oldest = served.ledger.oldest

    async def forgotten_meanwhile() -> int:
        # The first look, at the token, still finds everything.
        answer = await oldest()
        _forget(rig, before=10)
        return answer

    monkeypatch.setattr(served.ledger, "oldest", forgotten_meanwhile)
    refusal = await refused(served.watch(resume_token=start).until_synced())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "RESUME_TOKEN_EXPIRED")


async def test_a_token_from_a_ledgers_future_is_refused(rig: Rig) -> None:
    served = await rig.serve()
    await served.create()
    await served.create()
    token = (await served.list()).resume_token
    _forget(rig, before=100)

    assert (await refused(served.watch(resume_token=token).next())).reason == "TOKEN_INVALID"


def _forget(rig: Rig, *, before: int) -> None:
    connection = sqlite3.connect(rig.url.removeprefix("sqlite:///"), timeout=10)
    with connection:
        connection.execute("DELETE FROM events WHERE position < ?", (before,))
    connection.close()


async def test_a_drain_ends_every_watch_with_its_token_and_another_front_goes_on(rig: Rig) -> None:
    first = await rig.serve()
    name = (await first.create()).name
    idle, busy = first.watch(names=[name]), first.watch()
    for stream in (idle, busy):
        await stream.until_synced()
    created = (await first.create()).name
    drain = asyncio.create_task(first.front.drain())
    tokens = [await idle.drained(), await busy.drained()]
    await asyncio.wait_for(drain, 5)

    second = await rig.serve()
    await second.touch(name)
    # What the first stream was sent before the good-bye, its caller has received.
    assert sights(await second.watch(names=[name], resume_token=tokens[0]).until_synced()) == [(name, 2)]
    seen = await second.watch(resume_token=tokens[1]).until_synced()
    assert sights(seen)[-1] == (name, 2)
    assert set(sights(seen)) <= {(created, 1), (name, 2)}


async def test_a_drain_that_comes_while_a_message_is_on_its_way_is_not_slept_through(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    hub = Hub(ledger)
    await hub.start()

    async def write(_: bytes) -> None:
        hub.drain()

    plan = parse_watch(WatchVideoTasksRequest(), "default")
    tokens = Tokens(ledger.token_key, ledger.ledger_id)
    watch = Watch(plan, hub=hub, ledger=ledger, tokens=tokens, tenant="default", write=write)
    with pytest.raises(ServerUnavailable) as caught:
        await asyncio.wait_for(watch.run(), PATIENCE)
    await hub.close()

    assert caught.value.metadata["resume_token"] == tokens.resume(0)


async def test_a_watch_that_begins_while_the_front_drains_is_sent_away_with_the_token_that_it_brought(
    served: Served,
) -> None:
    token = (await served.list()).resume_token
    await served.front.begin_drain()

    assert await served.watch(resume_token=token).drained() == token


async def test_a_drain_with_many_watchers_takes_no_longer_than_a_few_seconds(served: Served) -> None:
    streams = [served.watch() for _ in range(200)]
    for stream in streams:
        await stream.until_synced()
    async with asyncio.timeout(5):
        await asyncio.gather(served.front.drain(), *(stream.drained() for stream in streams))


async def test_a_watch_outlives_a_ledger_that_is_away_for_a_while(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = served.watch()
    await stream.until_synced()
    read_events = served.ledger.read_events
    failed = asyncio.Event()

    async def away(*_: object) -> Any:
        failed.set()
        raise LedgerUnavailable("locked")

    monkeypatch.setattr(served.ledger, "read_events", away)
    name = (await served.create()).name
    await asyncio.wait_for(failed.wait(), PATIENCE)
    monkeypatch.setattr(served.ledger, "read_events", read_events)

    assert sights(await stream.take(1)) == [(name, 1)]


async def test_a_watch_that_must_read_a_ledger_that_is_away_ends_and_can_be_repeated(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("locked")

    monkeypatch.setattr(served.ledger, "list_tasks", away)
    refusal: Refusal = await refused(served.watch().next())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LEDGER_UNAVAILABLE")
    assert refusal.retry_seconds == 1
