"""Every client watches 40 tasks while they are made, through 100 broken connections."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from uuid import uuid4

import pytest

from tests.stack import PATIENCE

from .client import Client, Event, Outcome
from .conftest import BUILDERS, Stack
from .proxy import Proxy, random_fates

pytestmark = pytest.mark.xdist_group("clients")

TASKS = 40
CUTS = 100


@dataclass
class Trial:
    """What a client has printed, and what the ledger says."""

    outcome: Outcome
    #: Made before the connections began to break; the watch may have met it at any revision.
    first: str
    names: list[str]
    histories: dict[str, list[Event]]
    cuts: int


@pytest.fixture(scope="session")
def trials(stack: Stack, clients: list[Client]) -> dict[str, Trial]:
    async def all_at_once() -> list[Trial]:
        return await asyncio.gather(*(_watch_through_disconnects(stack, client) for client in clients))

    trials = asyncio.run(all_at_once())
    for trial in trials:
        trial.histories = stack.histories([trial.first, *trial.names])
    return {client.language: trial for client, trial in zip(clients, trials, strict=True)}


async def _watch_through_disconnects(stack: Stack, client: Client) -> Trial:
    run = uuid4().hex

    async def create(prompt: str) -> str:
        return await asyncio.to_thread(stack.create, prompt, run=run)

    first = await create("Before anything breaks")
    names: list[str] = []
    arguments = ("watch", "--label", f"run={run}", "--tasks", str(TASKS + 1))
    async with Proxy(stack.address) as proxy, client.start(proxy.address, *arguments) as watch:
        await watch.until(lambda: any(line.startswith(first) for line in watch.lines))
        # The same moments in every run, though not the same events.
        proxy.fates = list(islice(random_fates(seed=len(client.language)), CUTS))
        proxy.cut()
        for number in range(1, TASKS + 1):
            # Tasks are made all the while that connections break, the last one after the last of them.
            async with asyncio.timeout(PATIENCE):
                while proxy.cuts < number * CUTS // TASKS:
                    await asyncio.sleep(0.02)
            names.append(await create(f"Number {number}"))
        async with asyncio.timeout(PATIENCE):
            outcome = await watch.end()
    return Trial(outcome, first, names, {}, proxy.cuts)


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("language", BUILDERS)
def test_a_client_misses_nothing_and_sees_nothing_twice_through_a_hundred_disconnects(
    trials: dict[str, Trial], language: str
) -> None:
    trial = trials[language]
    outcome = trial.outcome
    seen = outcome.events

    assert outcome.code == 0, outcome.complaints
    assert trial.cuts >= CUTS
    assert "none skipped, none repeated" in outcome.complaints
    assert len(trial.names) == TASKS
    assert [event for event, times in Counter(seen).items() if times > 1] == []
    for name in trial.names:
        history = trial.histories[name]
        assert [event.revision for event in history] == list(range(1, len(history) + 1))
        assert [event for event in seen if event.name == name] == history
    first = [event for event in seen if event.name == trial.first]
    assert first == trial.histories[trial.first][-len(first) :]
    assert {event.name for event in seen} == {trial.first, *trial.names}
