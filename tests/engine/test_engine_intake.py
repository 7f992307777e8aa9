from __future__ import annotations

import pytest

from kling_flows.engine.engine import Engine
from kling_flows.engine.identity import TASK_ID, check_task_id, external_task_id, new_runner_id, new_task_id
from kling_flows.engine.intake import LABEL_LIMIT, new_video_task, request_digest
from kling_flows.engine.retries import RETRY_DELAYS, with_retries, worth_repeating
from kling_flows.engine.session import current_engine, engine_session
from kling_flows.errors import (
    ArchiveError,
    ConfigurationError,
    InvalidRequest,
    LeaseLost,
    LedgerUnavailable,
    RunnerDraining,
    VideoTaskFailed,
)
from kling_flows.ledger import State
from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import (
    Provider,
    TextToVideoRequest,
    UpstreamAlreadyExists,
    UpstreamAmbiguous,
    UpstreamAuth,
    UpstreamBilling,
    UpstreamConcurrency,
    UpstreamInvalid,
    UpstreamNotFound,
    UpstreamPermission,
    UpstreamPolicy,
    UpstreamThrottled,
    UpstreamUnavailable,
)

REQUEST = TextToVideoRequest(prompt="a cup")


def test_new_ids_differ_sort_by_time_and_are_ids_that_a_caller_could_choose() -> None:
    ids = [new_task_id() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    assert [name[:10] for name in ids] == sorted(name[:10] for name in ids)
    assert all(TASK_ID.fullmatch(name) for name in ids)
    assert new_runner_id() != new_runner_id()


@pytest.mark.parametrize("name", ["a", "a1", "my-video-2", "a" * 48])
def test_ids_that_a_caller_may_choose(name: str) -> None:
    assert check_task_id(name, "video_task_id") is None


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a-", "a_b", "a/b", "..", "a" * 49, "a\n", "ä"])
def test_ids_that_would_be_no_file_name_are_refused(name: str) -> None:
    violation = check_task_id(name, "video_task_id")
    assert violation is not None
    assert violation.field == "video_task_id"


def test_external_ids_tell_two_ledgers_apart() -> None:
    assert external_task_id("1", "t") != external_task_id("2", "t")


def test_a_new_task_waits_and_has_no_past() -> None:
    made = new_video_task(REQUEST, Provider.KLING, tenant="a", labels={"team": "film"})
    assert (made.state, made.revision, made.tenant, made.labels) == (State.QUEUED, 1, "a", {"team": "film"})
    assert made.upstream is None
    assert made.create_time == made.update_time


def test_all_that_is_wrong_is_said_at_once() -> None:
    labels = {"Bad Key": "x", "good": "y" * 256, **{f"l{n}": "" for n in range(LABEL_LIMIT)}}
    with pytest.raises(InvalidRequest) as caught:
        new_video_task(
            TextToVideoRequest(prompt="", duration=99),
            Provider.KLING,
            tenant="a",
            task_id="Bad",
            request_id="with blank",
            labels=labels,
        )
    fields = {violation.field for violation in caught.value.violations}
    assert fields >= {"text_to_video.prompt", "text_to_video.duration", "video_task_id", "request_id", "labels"}
    assert "labels['good']" in fields


def test_another_body_has_another_digest() -> None:
    bodies = [
        (REQUEST, {}, ""),
        (REQUEST, {"a": "b"}, ""),
        (REQUEST, {"a": "c"}, ""),
        (REQUEST, {}, "t"),
        (TextToVideoRequest(prompt="a mug"), {}, ""),
    ]
    assert len({request_digest(*body) for body in bodies}) == len(bodies)
    assert request_digest(REQUEST, {"a": "1", "b": "2"}, "") == request_digest(REQUEST, {"b": "2", "a": "1"}, "")


@pytest.mark.parametrize(
    "error",
    [
        *(kind("x") for kind in (UpstreamThrottled, UpstreamConcurrency, UpstreamUnavailable, UpstreamAmbiguous)),
        ArchiveError("x"),
        LedgerUnavailable("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_time_may_mend_is_worth_repeating(error: Exception) -> None:
    assert worth_repeating(error)


@pytest.mark.parametrize(
    "error",
    [
        *(kind("x") for kind in (UpstreamInvalid, UpstreamAuth, UpstreamBilling, UpstreamPermission, UpstreamPolicy)),
        *(kind("x") for kind in (UpstreamNotFound, UpstreamAlreadyExists, LeaseLost, RunnerDraining, VideoTaskFailed)),
        ConfigurationError("x", "y"),
        RuntimeError("x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_stays_as_it_is_is_not_worth_repeating(error: Exception) -> None:
    assert not worth_repeating(error)


def test_steps_are_repeated_further_and_further_apart() -> None:
    assert list(RETRY_DELAYS) == sorted(RETRY_DELAYS)


async def test_a_step_is_repeated_until_it_succeeds() -> None:
    calls: list[int] = []

    async def step() -> str:
        calls.append(1)
        if len(calls) < 4:
            raise LedgerUnavailable("away")
        return "done"

    assert await with_retries(step) == "done"
    assert len(calls) == 4


async def test_a_bug_is_not_repeated() -> None:
    calls: list[int] = []

    async def step() -> None:
        calls.append(1)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await with_retries(step)
    assert len(calls) == 1


async def test_a_session_lends_the_engine_it_was_given(engine: Engine) -> None:
    with pytest.raises(RuntimeError, match="engine_session"):
        current_engine()
    async with engine_session(engine) as outer:
        assert outer is engine is current_engine()
        async with engine_session() as inner:
            assert inner is engine
        assert current_engine() is engine
    with pytest.raises(RuntimeError):
        current_engine()


async def test_a_session_opens_an_engine_where_there_is_none(
    sandbox: SandboxServer, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLING_FLOWS_PROVIDER", "sandbox")
    monkeypatch.setenv("KLING_FLOWS_UPSTREAM_URL", sandbox.url)
    monkeypatch.setenv("KLING_FLOWS_STATE_DIR", f"{tmp_path}/state")
    async with engine_session() as opened:
        assert current_engine() is opened
        assert await opened.ledger.read_leases()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"archive": "/dev/null/videos"}, "KLING_FLOWS_ARCHIVE"),
        ({"ledger_url": "sqlite:////dev/null/ledger.db"}, "KLING_FLOWS_STATE_DIR"),
        ({"state_dir": "/dev/null/state"}, "KLING_FLOWS_"),
        ({"upstream_url": "nonsense"}, "KLING_FLOWS_UPSTREAM_URL"),
    ],
)
async def test_an_engine_that_cannot_work_here_says_which_setting_is_wrong(
    open_engine: object, settings: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        await open_engine(**settings)  # type: ignore[operator]
    assert caught.value.setting.startswith(named)
