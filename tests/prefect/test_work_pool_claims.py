"""What a dispatcher holds is anybody's who carries it; runs that share an engine are told from each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Pending, Running, Scheduled

from kling_flows import TextToVideoRequest
from kling_flows.engine.intake import new_video_task
from kling_flows.engine.leases import LeaseKeeper
from kling_flows.engine.session import Holder
from kling_flows.errors import LeaseLost
from kling_flows.ledger import HANDS_ON, Ledger
from kling_flows.runner.work_pool import _Fate, _fate
from kling_flows.runner.worker_runs import infrastructure_id, runner_of
from kling_flows.upstream import Provider

pytestmark = pytest.mark.xdist_group("prefect-plugin")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}") as opened:
        yield opened


async def _create(ledger: Ledger, task_id: str) -> None:
    request = TextToVideoRequest(prompt="A paper boat")
    await ledger.create(new_video_task(request, Provider.SANDBOX, tenant="default", task_id=task_id))


async def test_a_task_keeps_its_place_from_the_dispatcher_to_the_worker(ledger: Ledger, tmp_path: Path) -> None:
    dispatcher = LeaseKeeper(ledger, tmp_path, hands_on=True)
    worker, other = LeaseKeeper(ledger, tmp_path), LeaseKeeper(ledger, tmp_path)
    async with dispatcher.held(), worker.held(), other.held():
        for task_id in ("first", "second"):
            await _create(ledger, task_id)
        [task] = await ledger.claim(dispatcher.runner_id, 10, slots=1)
        assert await ledger.claim_one(task.id, worker.runner_id) == task
        assert await ledger.held_by(dispatcher.runner_id) == set()
        assert await ledger.held_by(worker.runner_id) == {task.id}
        # The only place went along with it.
        assert await ledger.claim(dispatcher.runner_id, 10, slots=1) == []
        with pytest.raises(LeaseLost, match=worker.runner_id):
            await ledger.claim_one(task.id, other.runner_id)


async def test_what_a_dispatcher_held_is_free_when_it_ends(ledger: Ledger, tmp_path: Path) -> None:
    dispatcher, next_one = (LeaseKeeper(ledger, tmp_path, hands_on=True) for _ in range(2))
    await _create(ledger, "left")
    async with dispatcher.held():
        assert dispatcher.runner_id.startswith(HANDS_ON)
        assert len(await ledger.claim(dispatcher.runner_id, 10, slots=1)) == 1
    async with next_one.held():
        assert [task.id for task in await ledger.claim(next_one.runner_id, 10, slots=1)] == ["left"]


async def test_nobody_takes_from_a_dispatcher_without_a_lease(ledger: Ledger, tmp_path: Path) -> None:
    dispatcher = LeaseKeeper(ledger, tmp_path, hands_on=True)
    await _create(ledger, "wanted")
    async with dispatcher.held():
        await ledger.claim(dispatcher.runner_id, 10)
        with pytest.raises(LeaseLost, match="no lease"):
            await ledger.claim_one("wanted", "run-of-nobody")
        assert await ledger.held_by(dispatcher.runner_id) == {"wanted"}


def test_runs_that_share_an_engine_never_carry_the_same_task() -> None:
    holders: dict[str, Holder] = {}
    first, second = Holder(holders), Holder(holders)
    first.take("one")
    first.take("one")
    second.take("two")
    with pytest.raises(LeaseLost, match="another flow run"):
        second.take("one")
    assert (first.task_ids, second.task_ids) == ({"one"}, {"two"})
    first.let_go()
    second.take("one")
    assert second.task_ids == {"one", "two"}


LONG_AGO = datetime.now(UTC) - timedelta(hours=1)


@pytest.mark.parametrize(
    ("state", "place", "fate"),
    [
        (Scheduled(), None, _Fate.OPEN),
        (Pending(), None, _Fate.OPEN),
        (Running(), "4711", _Fate.OPEN),
        (Running(timestamp=LONG_AGO), "run-alive/of-it", _Fate.OPEN),
        (Running(), "run-gone/of-it", _Fate.DEAD),
        (Pending(), "run-gone/of-it", _Fate.DEAD),
        (Running(timestamp=LONG_AGO), "4711", _Fate.DEAD),
        (Pending(timestamp=LONG_AGO), None, _Fate.DEAD),
        (Cancelling(), "run-alive/of-it", _Fate.CANCELLED),
        (Cancelled(), None, _Fate.CANCELLED),
        (Crashed(), "run-alive/of-it", _Fate.OVER),
        (Completed(), None, _Fate.OVER),
    ],
)
def test_what_a_run_means_for_a_task_that_it_has_not_taken(state: State, place: str | None, fate: _Fate) -> None:
    run = FlowRun(flow_id=uuid4(), state=state, infrastructure_pid=place)
    assert _fate(run, {"run-alive"}) is fate


def test_a_worker_of_another_type_has_no_lease() -> None:
    run = FlowRun(flow_id=uuid4())
    assert runner_of(run) is None
    for place, runner in ((infrastructure_id("run-1", run), "run-1"), ("1234", None), ("cluster/ns:job", None)):
        assert runner_of(run.model_copy(update={"infrastructure_pid": place})) == runner
