"""What a scenario is, how it is played, and those of a provider that fails and of processes that are killed at random.

All scenarios together are in :mod:`tests.faults.registry`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from kling_flows.v1.video_task_pb2 import VideoTask
from tests.faults.audit import Audit, Finding, Kind
from tests.faults.mortal import Death
from tests.faults.trial import FRONT, PREFECT, REFUSED, RUNNER, Trial, trial

Rules = tuple[Mapping[str, Any], ...]

Play = Callable[[Trial, int], Awaitable[None]]

ACCEPT_THEN_DROP: Final[Rules] = ({"fault": "accept_then_drop", "rate": 0.2},)

ERROR_5000: Final[Rules] = (
    {"fault": "http_error", "on": "create", "code": 5000, "rate": 0.2, "accept": "yes"},
    {"fault": "http_error", "on": "create", "code": 5000, "rate": 0.2, "accept": "no"},
    {"fault": "http_error", "on": "create", "code": 5000, "rate": 0.2, "accept": "late", "seconds": 2},
)

HANG: Final[Rules] = (
    {"fault": "hang", "on": "create", "times": 3, "accept": "yes"},
    {"fault": "hang", "on": "create", "times": 3, "accept": "no"},
)

VIDEO: Final[Rules] = (
    {"fault": "video_truncated", "rate": 0.1},
    {"fault": "video_wrong_length", "rate": 0.1},
    {"fault": "video_html", "rate": 0.1},
    {"fault": "reset_mid_body", "on": "download", "rate": 0.1},
    {"fault": "video_expired", "rate": 0.1},
    {"fault": "video_expired", "on": "list", "rate": 0.1},
)


_PREFECT_KILLS: Final = 3


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault.

    Args:
        name: For the command line.
        fault: In words, for the table.
        play: Orders so many videos and makes things go wrong meanwhile.
        refused: Whether some orders are refused for good.
        arguments: Of ``kling-flows serve``.
        settings: Variables of the environment, for the server and everything below it.
        deaths: Where processes kill themselves, if so many videos are ordered.
        seconds: How long a video takes at the sandbox, ``MIN:MAX``.
        sandbox: Arguments of the sandbox beside those of every trial.
    """

    name: str
    fault: str
    play: Play
    refused: bool = False
    arguments: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    deaths: Callable[[int], tuple[Death, ...]] = lambda _: ()
    seconds: str = "3:6"
    sandbox: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario ended."""

    #: Of the scenario.
    name: str
    trials: int
    #: Calls that a fault has hit, or processes killed.
    hits: int
    audit: Audit
    #: In seconds.
    worst_recovery: float


def _provider(rules: Rules) -> Play:
    async def play(on: Trial, count: int) -> None:
        on.provider.faults(*rules)
        await on.create(count)

    return play


async def _storm(on: Trial, count: int) -> None:
    on.provider.faults(
        {"fault": "http_error", "on": "create", "code": 1301, "match": REFUSED},
        {"fault": "concurrency", "times": count},
        {"fault": "throttle", "times": count, "retry_after": 1},
    )
    await on.create(count, refused=max(1, count // 20))


async def _runner(on: Trial, count: int) -> None:
    await on.create(count)
    await on.moment(VideoTask.SUBMITTING, 0.0, 0.2)
    await on.kill(RUNNER)
    await on.moment(VideoTask.SUBMITTED, 0.3, 0.9)
    await on.kill(RUNNER)
    await on.moment(VideoTask.ARCHIVING, 0.1, 0.5)
    await on.kill(RUNNER)
    await on.moment(VideoTask.SUCCEEDED, 0.5, 0.8)
    await on.kill(RUNNER)


async def _prefect(on: Trial, count: int) -> None:
    first = count // (_PREFECT_KILLS + 1)
    await on.create(count - first * _PREFECT_KILLS)
    for _ in range(_PREFECT_KILLS):
        await on.moment(VideoTask.SUBMITTED, 0.2, 0.8)
        # These come while Prefect is away.
        async with on.ordering(first):
            await on.kill(PREFECT)


async def _front(on: Trial, count: int) -> None:
    async with on.ordering(count):
        for share in (0.2, 0.5, 0.8):
            await on.until(lambda share=share: len(on.created) >= share * count, "creates are answered")
            await on.kill(FRONT)


async def _everything(on: Trial, count: int) -> None:
    await on.create(count)
    await on.moment(VideoTask.SUBMITTED, 0.1, 0.7)
    await on.kill_everything()
    await on.moment(VideoTask.ARCHIVING, 0.2, 0.7)
    await on.kill_everything()


PROVIDER: Final = (
    Scenario("accept-then-drop", "create: accepted, then the connection is cut (20 %)", _provider(ACCEPT_THEN_DROP)),
    Scenario(
        "error-5000",
        "create: error 5000, accepted, not accepted, or accepted 2 s later (20 % each)",
        _provider(ERROR_5000),
    ),
    Scenario("hang", "create: no answer at all, accepted or not (6 calls)", _provider(HANG)),
    Scenario("storm", "create: 1302 and 1303 in a row, and 1301 for one in 20", _storm, refused=True),
    Scenario("video", "video: truncated, wrong length, HTML, reset, expired (10 % each)", _provider(VIDEO)),
)

KILLS: Final = (
    Scenario("runner", "kill -9 of the runner at any moment, 4 times", _runner),
    Scenario("prefect", f"kill -9 of the Prefect server, {_PREFECT_KILLS} times", _prefect),
    Scenario("front", "kill -9 of the front at any moment during creates, 3 times", _front),
    Scenario("everything", "kill -9 of everything and a new start, twice", _everything),
)


async def run(scenario: Scenario, folder: Path, count: int, *, seed: int, patience: float) -> Result:
    """Play one scenario on processes of its own."""
    async with trial(
        folder,
        *scenario.arguments,
        settings=scenario.settings,
        sandbox_arguments=scenario.sandbox,
        deaths=scenario.deaths(count),
        seconds=scenario.seconds,
        seed=seed,
        patience=patience,
    ) as on:
        broken: list[Finding] = []
        try:
            await scenario.play(on, count)
        except AssertionError as error:
            broken.append(Finding(Kind.LOST, f"the scenario came to no end: {error}"))
        audit = await on.finish(refused=scenario.refused)
        return Result(
            name=scenario.name,
            trials=len(on.prompts),
            hits=on.blows + on.hits(),
            audit=Audit((*broken, *audit.findings)),
            worst_recovery=on.worst_recovery(),
        )
