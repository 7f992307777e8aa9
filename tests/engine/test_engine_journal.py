"""At most one paid upstream task per video task, wherever the line to the provider is cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kling_flows.engine import retries
from kling_flows.engine import submit as submit_module
from kling_flows.engine.cancel import cancelled
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.submit import submit
from kling_flows.errors import LeaseLost
from kling_flows.ledger import State
from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import UpstreamAuth, UpstreamConcurrency, UpstreamPermission, UpstreamUnavailable
from kling_flows.upstream.constants import StatusWord

from .rig import OpenEngine, assert_archived, assert_paid_once, creates, history, queue, states, until

#: Faults of one create, and how many requests have to be sent then.
UNKNOWN_OUTCOMES: dict[str, tuple[dict[str, Any], int]] = {
    "accepted, then cut": ({"fault": "accept_then_drop"}, 1),
    "cut before it was accepted": ({"fault": "drop_before_accept"}, 2),
    "5000, lost": ({"fault": "http_error", "on": "create", "code": 5000}, 2),
    "5000, accepted": ({"fault": "http_error", "on": "create", "code": 5000, "accept": "yes"}, 1),
    "5001, lost": ({"fault": "http_error", "on": "create", "code": 5001}, 2),
    "504, accepted": ({"fault": "http_error", "on": "create", "status": 504, "accept": "yes"}, 1),
    "a gateway's page, lost": ({"fault": "html", "on": "create"}, 2),
    "a gateway's page, accepted": ({"fault": "html", "on": "create", "accept": "yes"}, 1),
    "a page with 200, accepted": ({"fault": "html", "on": "create", "status": 200, "accept": "yes"}, 1),
    "no body, accepted": ({"fault": "empty", "on": "create"}, 1),
    "no body, lost": ({"fault": "empty", "on": "create", "accept": "no"}, 2),
    "half an answer": ({"fault": "truncated_json", "on": "create"}, 1),
    "reset within the answer": ({"fault": "reset_mid_body", "on": "create"}, 1),
    "too slow, accepted": ({"fault": "slow", "on": "create", "seconds": 30}, 1),
    "no answer, accepted": ({"fault": "hang", "on": "create", "accept": "yes"}, 1),
    "no answer, lost": ({"fault": "hang", "on": "create"}, 2),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("fault", "requests"), UNKNOWN_OUTCOMES.values(), ids=UNKNOWN_OUTCOMES)
async def test_an_unknown_outcome_is_looked_up_and_paid_once(
    open_engine: OpenEngine, sandbox: SandboxServer, fault: dict[str, Any], requests: int
) -> None:
    engine = await open_engine()
    sandbox.set_faults([{**fault, "times": 1}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == requests
    assert ended.upstream is not None
    assert ended.upstream.submit_attempts == requests


@pytest.mark.usefixtures("impatient")
async def test_outcomes_that_stay_unknown_are_still_paid_once(open_engine: OpenEngine, sandbox: SandboxServer) -> None:
    engine = await open_engine()
    sandbox.set_faults(
        [
            {"fault": "hang", "on": "create", "times": 1},
            {"fault": "drop_before_accept", "times": 1},
            {"fault": "http_error", "on": "create", "code": 5000, "times": 1},
            {"fault": "accept_then_drop", "times": 1},
        ]
    )
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 4


@pytest.mark.usefixtures("impatient")
async def test_a_first_create_that_arrives_after_its_repetition_only_collides(
    open_engine: OpenEngine, sandbox: SandboxServer
) -> None:
    engine = await open_engine()
    # Given up after 0.4 s and repeated soon after; the first would be accepted 2.5 s after it was sent.
    sandbox.set_faults([{"fault": "hang", "on": "create", "accept": "late", "seconds": 2.5, "times": 1}])
    await queue(engine)
    sent = asyncio.get_running_loop().time()
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert creates(sandbox) == 2
    await until(lambda: asyncio.get_running_loop().time() > sent + 2.7)
    assert_paid_once(sandbox, ended)


async def test_a_first_create_that_arrives_before_its_repetition_is_adopted(
    engine: Engine, sandbox: SandboxServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "RETRY_DELAYS", (1.0,) * 3)
    # Lost as far as the first look-ups can see, and there when it is looked up again.
    sandbox.set_faults([{"fault": "drop_before_accept", "accept": "late", "seconds": 0.7, "times": 1}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 1


def _not_shown(times: int) -> dict[str, Any]:
    """The provider shows a task only after so many look-ups in vain."""
    return {"fault": "http_error", "on": "get", "code": 1203, "times": times}


async def test_a_repetition_that_collides_adopts_the_first(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "accept_then_drop", "times": 1}, _not_shown(2 * len(submit_module.LOOKUP_DELAYS))])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 2


async def test_a_collision_is_adopted_however_late_the_first_is_shown(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "accept_then_drop", "times": 1}, _not_shown(14)])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 3


async def test_the_look_up_is_tried_again_while_the_provider_cannot_be_asked(
    engine: Engine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults(
        [
            {"fault": "accept_then_drop", "times": 1},
            {"fault": "http_error", "on": "get", "code": 5000, "times": 1},
            {"fault": "drop_before_accept", "on": "get", "times": 1},
            {"fault": "throttle", "on": "get", "times": 1},
        ]
    )
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 1


async def test_a_provider_that_cannot_be_asked_leaves_the_outcome_unknown(
    engine: Engine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults([{"fault": "accept_then_drop", "times": 1}, {"fault": "http_error", "on": "get", "code": 5000}])
    await queue(engine)
    with pytest.raises(UpstreamUnavailable):
        await carry(engine, "t", None)
    task = await engine.ledger.get("t")
    assert task.state is State.SUBMITTING
    assert task.upstream is not None
    assert task.upstream.outcome_unknown
    sandbox.set_faults([])
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 1


async def test_a_key_that_is_refused_at_the_look_up_decides_nothing(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "accept_then_drop", "times": 1}, {"fault": "http_error", "on": "get", "code": 1000}])
    await queue(engine)
    with pytest.raises(UpstreamAuth):
        await carry(engine, "t", None)
    assert (await engine.ledger.get("t")).state is State.SUBMITTING
    sandbox.set_faults([])
    assert_paid_once(sandbox, await carry(engine, "t", None))


async def test_nothing_is_sent_before_the_intent_is_durable(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "slow", "on": "create", "seconds": 0.3}])
    await queue(engine)
    submitting = asyncio.create_task(submit(engine, "t"))
    await until(lambda: creates(sandbox))
    intent = await engine.ledger.get("t")
    assert intent.state is State.SUBMITTING
    assert intent.upstream is not None
    assert intent.upstream.outcome_unknown
    assert intent.upstream.external_task_id == f"kf-{engine.ledger.ledger_id}-t"
    submitted = await submitting
    assert submitted.upstream is not None
    assert submitted.upstream.external_task_id == intent.upstream.external_task_id
    assert submitted.upstream.status == StatusWord.SUBMITTED


REFUSALS = {
    1000: "UPSTREAM_AUTH",
    1101: "UPSTREAM_BILLING",
    1102: "UPSTREAM_BILLING",
    1103: "UPSTREAM_PERMISSION",
    1201: "UPSTREAM_INVALID",
    1203: "UPSTREAM_INVALID",
    1300: "UPSTREAM_POLICY",
    1301: "UPSTREAM_POLICY",
    1304: "UPSTREAM_PERMISSION",
}


@pytest.mark.parametrize(("code", "reason"), REFUSALS.items())
async def test_a_refusal_for_good_is_not_repeated(
    engine: Engine, sandbox: SandboxServer, code: int, reason: str
) -> None:
    sandbox.set_faults([{"fault": "http_error", "on": "create", "code": code}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert (ended.error.reason, ended.error.metadata["provider_code"]) == (reason, str(code))
    assert ended.upstream is not None
    assert not ended.upstream.outcome_unknown
    assert creates(sandbox) == 1
    assert sandbox.charges() == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"fault": "throttle"}, "UPSTREAM_THROTTLED"),
        ({"fault": "concurrency"}, "UPSTREAM_CONCURRENCY"),
    ],
)
async def test_what_is_throttled_is_repeated_and_says_why_meanwhile(
    engine: Engine, sandbox: SandboxServer, fault: dict[str, Any], reason: str
) -> None:
    sandbox.set_faults([{**fault, "times": 2}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 3
    noted = [task for task in await history(engine) if task.error is not None]
    assert [task.error.reason for task in noted if task.error] == [reason] * 4
    assert {task.state for task in noted} == {State.SUBMITTING}
    # Nothing was created, and that is known until the next request is declared.
    assert [task.upstream.outcome_unknown for task in noted if task.upstream] == [False, True, False, True]


async def test_what_is_throttled_for_too_long_stays_where_it_is(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "concurrency"}])
    await queue(engine)
    with pytest.raises(UpstreamConcurrency):
        await carry(engine, "t", None)
    assert creates(sandbox) == len(retries.RETRY_DELAYS) + 1
    assert (await engine.ledger.get("t")).state is State.SUBMITTING
    sandbox.set_faults([])
    assert_paid_once(sandbox, await carry(engine, "t", None))


async def test_the_provider_s_wish_to_wait_is_honoured(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "throttle", "retry_after": 1, "times": 1}])
    await queue(engine)
    began = asyncio.get_running_loop().time()
    await retries.with_retries(lambda: submit(engine, "t"))
    assert asyncio.get_running_loop().time() - began >= 1.0


async def test_a_provider_that_is_not_there_was_sent_nothing(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox()
    server.__exit__(None, None, None)
    engine: Engine = await open_engine_on(server)
    await queue(engine)
    with pytest.raises(UpstreamUnavailable):
        await carry(engine, "t", None)
    task = await engine.ledger.get("t")
    assert task.upstream is not None
    assert not task.upstream.outcome_unknown
    assert task.error is not None
    assert task.error.reason == "UPSTREAM_UNAVAILABLE"


async def test_a_refusal_after_a_doubtful_request_does_not_give_up_what_was_paid(
    engine: Engine, sandbox: SandboxServer
) -> None:
    # The first request was accepted and took the last units, so that its repetition is refused for want of units.
    sandbox.set_faults(
        [
            {"fault": "accept_then_drop", "times": 1},
            {"fault": "http_error", "on": "create", "code": 1102},
            _not_shown(2 * len(submit_module.LOOKUP_DELAYS)),
        ]
    )
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)
    assert creates(sandbox) == 2


async def test_a_refusal_after_a_doubtful_request_that_is_nowhere_ends_the_task(
    engine: Engine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults(
        [{"fault": "drop_before_accept", "times": 1}, {"fault": "http_error", "on": "create", "code": 1301}]
    )
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert ended.error.reason == "UPSTREAM_POLICY"
    assert sandbox.charges() == []


async def test_a_throttle_after_a_doubtful_request_keeps_the_doubt(engine: Engine, sandbox: SandboxServer) -> None:
    sandbox.set_faults([{"fault": "drop_before_accept", "times": 1}, {"fault": "throttle", "times": 1}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_paid_once(sandbox, ended)
    noted = next(task for task in await history(engine) if task.error is not None)
    assert noted.upstream is not None
    assert noted.upstream.outcome_unknown


async def _distrust(engine: Engine) -> None:
    await engine.ledger.write_meta(f"lookup/{engine.client.account.name}", "not-honoured")


async def test_where_nothing_can_be_looked_up_a_person_decides(engine: Engine, sandbox: SandboxServer) -> None:
    await _distrust(engine)
    sandbox.set_faults([{"fault": "drop_before_accept", "times": 1}])
    await queue(engine)
    stopped = await carry(engine, "t", None)
    assert stopped.state is State.UNRESOLVED
    assert stopped.error is not None
    assert stopped.error.reason == "UPSTREAM_AMBIGUOUS"
    assert stopped.upstream is not None
    assert stopped.upstream.external_task_id in stopped.error.message
    assert stopped.upstream.outcome_unknown
    # Nobody takes it up, and whoever is made to does not send anything either.
    assert await engine.ledger.claim(engine.runner_id, 10) == []
    assert await carry(engine, "t", None) == stopped
    assert (creates(sandbox), sandbox.charges()) == (1, [])
    ended = await engine.ledger.advance("t", lambda before: cancelled(before, "not there"))
    assert ended.state is State.CANCELLED


async def test_what_can_be_found_is_adopted_even_without_trust(engine: Engine, sandbox: SandboxServer) -> None:
    await _distrust(engine)
    sandbox.set_faults([{"fault": "accept_then_drop", "times": 1}])
    await queue(engine)
    ended = await carry(engine, "t", None)
    assert_archived(ended)
    assert_paid_once(sandbox, ended)


async def test_without_trust_known_refusals_are_still_repeated(engine: Engine, sandbox: SandboxServer) -> None:
    await _distrust(engine)
    sandbox.set_faults([{"fault": "concurrency", "times": 2}])
    await queue(engine)
    assert_paid_once(sandbox, await carry(engine, "t", None))


_REFUSED_LOOK_UP = [
    {"fault": "accept_then_drop", "times": 1},
    {"fault": "http_error", "on": "get", "code": 1304},
]


async def test_a_refused_look_up_leaves_the_question_open_until_it_is_answered(
    engine: Engine, sandbox: SandboxServer
) -> None:
    sandbox.set_faults(_REFUSED_LOOK_UP)
    await queue(engine)
    with pytest.raises(UpstreamPermission):
        await carry(engine, "t", None)
    waiting = await engine.ledger.get("t")
    assert waiting.state is State.SUBMITTING
    assert waiting.upstream is not None
    assert waiting.upstream.outcome_unknown
    sandbox.set_faults([])
    assert_paid_once(sandbox, await carry(engine, "t", None))


async def test_a_refused_look_up_stops_the_task_where_look_ups_are_not_trusted(
    engine: Engine, sandbox: SandboxServer
) -> None:
    await _distrust(engine)
    sandbox.set_faults(_REFUSED_LOOK_UP)
    await queue(engine)
    stopped = await carry(engine, "t", None)
    assert stopped.state is State.UNRESOLVED
    assert stopped.error is not None
    assert stopped.error.reason == "UPSTREAM_PERMISSION"


async def test_the_first_accepted_task_shows_whether_look_ups_are_honoured(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any]
) -> None:
    server = start_sandbox(external_id_lookup=False)
    engine: Engine = await open_engine_on(server)
    key = f"lookup/{engine.client.account.name}"
    for name in ("t-1", "t-2"):
        await queue(engine, name)
    assert_archived(await carry(engine, "t-1", None))
    assert (await engine.ledger.read_meta())[key] == "not-honoured"
    server.set_faults([{"fault": "drop_before_accept", "times": 1}])
    assert (await carry(engine, "t-2", None)).state is State.UNRESOLVED
    assert creates(server) == 2


async def test_look_ups_that_are_honoured_are_remembered(engine: Engine, sandbox: SandboxServer) -> None:
    await queue(engine)
    await submit(engine, "t")
    assert (await engine.ledger.read_meta())[f"lookup/{engine.client.account.name}"] == "honoured"
    assert await engine.trust.trusted()


@pytest.mark.parametrize(("lag", "learned"), [(0.1, "honoured"), (30.0, None)])
async def test_a_provider_that_shows_tasks_late_is_not_held_to_dishonour_look_ups(
    start_sandbox: Callable[..., SandboxServer], open_engine_on: Callable[..., Any], lag: float, learned: str | None
) -> None:
    engine: Engine = await open_engine_on(start_sandbox(lookup_lag=lag))
    await queue(engine)
    await submit(engine, "t")
    assert (await engine.ledger.read_meta()).get(f"lookup/{engine.client.account.name}") == learned
    assert await engine.trust.trusted()


async def test_another_runner_s_task_is_not_submitted(engine: Engine, open_engine: OpenEngine) -> None:
    other = await open_engine()
    await queue(other)
    with pytest.raises(LeaseLost):
        await carry(engine, "t", None)
    assert await states(engine) == [State.QUEUED]
