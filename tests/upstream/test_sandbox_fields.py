"""Every field of a request on its way to the sandbox: in each dialect, at each provider.

A field has arrived if its value shows in what becomes of the task, or if a value that breaks a rule of the provider is
refused there by the field's own name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import pytest

from kling_flows.errors import InvalidRequest
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.upstream import (
    Dialect,
    Mode,
    Sound,
    TextToVideoRequest,
    UpstreamClient,
    UpstreamInvalid,
    UpstreamStatus,
    UpstreamTask,
    capability_map,
    check,
    quote,
    validate,
)

from .data import request
from .surfaces import EVERYWHERE, KLING, LEGACY, Surface

pytestmark = pytest.mark.xdist_group("upstream-sandbox")

#: Nobody listens there.
NOWHERE: Final = "http://127.0.0.1:9/hook"
SHOTS: Final = [{"prompt": "a boat leaves", "duration": 2}, {"prompt": "it rains", "duration": 3}]
ZOOM: Final = {"type": "simple", "config": {"zoom": 1.5}}
MULTI: Final = {"prompt": "", "multi_shot": True, "shot_type": "customize"}
WITH_VOICES: Final = {"sound": "on", "prompt": "<<<voice_1>>> says hello"}

_numbers: Iterator[int] = iter(range(1_000_000))


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    settings = SandboxSettings(
        seconds=(0.0, 0.0), video=VideoSource.TINY, concurrency=0, discontinued_models=frozenset(), callback_attempts=1
    )
    with SandboxServer(settings) as running:
        yield running


@dataclass(frozen=True)
class Sent:
    """What became of a request."""

    server: SandboxServer
    external_task_id: str
    task: UpstreamTask

    @property
    def charge(self) -> Any:
        (charge,) = [one for one in self.server.charges() if one["task_id"] == self.task.task_id]
        return charge


async def send(server: SandboxServer, surface: Surface, wish: TextToVideoRequest) -> Sent:
    external_task_id = f"ext-{next(_numbers)}"
    async with UpstreamClient(surface.account(server)) as client:
        task = await client.create(wish, external_task_id)
        async with asyncio.timeout(60):
            while not task.status.final:
                task = await client.get(external_task_id, external=True)
        assert task.status is UpstreamStatus.SUCCEEDED
        return Sent(server, external_task_id, task)


@dataclass(frozen=True)
class Case:
    """One field: a value that the provider takes, what shows that it did, and a value that it refuses by name."""

    name: str
    good: dict[str, Any]
    bad: dict[str, Any] = field(default_factory=dict[str, Any])
    #: In the refusal of ``bad``, by dialect.
    refused: dict[Dialect, str] = field(default_factory=dict[Dialect, str])
    shows: Callable[[Sent], bool] = lambda sent: True
    surfaces: tuple[Surface, ...] = EVERYWHERE
    #: No living model takes it, so that our own rules refuse the good value too.
    retired: bool = False


L, S = Dialect.LEGACY, Dialect.STANDARD
OFFICIAL_LEGACY: Final = (Surface.LEGACY_JWT, Surface.LEGACY_KEY)
CASES: Final = [
    Case(
        "prompt",
        {"prompt": "Ein Boot – 船"},
        {"prompt": "x" * 3073},
        {L: "prompt is too long", S: "prompt is too long"},
        lambda sent: sent.charge["prompt"] == "Ein Boot – 船",
    ),
    Case(
        "negative_prompt",
        {"negative_prompt": "people"},
        {"negative_prompt": "x" * 2501},
        {L: "negative_prompt is too long"},
        surfaces=LEGACY,
    ),
    Case(
        "model_name",
        {"model_name": "kling-v2-5-turbo"},
        {"model_name": "kling-v9"},
        {L: "model is not supported"},
        lambda sent: sent.charge["model_name"] in ("kling-v2-5-turbo", "kling-2.5-turbo"),
    ),
    Case(
        "mode",
        {"mode": "pro"},
        {"mode": "4k", "model_name": "kling-v2-6"},
        {L: "model/mode/duration(kling-v2-6/4k/5)", S: "settings.resolution value '4k'"},
        lambda sent: sent.charge["units"] == 4.0,
    ),
    Case(
        "duration",
        {"duration": 10},
        {"duration": 99},
        {L: "model/mode/duration(kling-v3/std/99)", S: "settings.duration value '99'"},
        lambda sent: sent.task.videos[0].duration_seconds == pytest.approx(10, abs=0.2),
    ),
    Case(
        "aspect_ratio",
        {"aspect_ratio": "9:16"},
        {"aspect_ratio": "4:3"},
        {L: "aspect_ratio value '4:3'", S: "settings.aspect_ratio value '4:3'"},
    ),
    Case(
        "sound",
        {"sound": "on"},
        {"sound": "on", "model_name": "kling-v2-6"},
        {L: "model/mode/sound(kling-v2-6/std/on)", S: "settings.audio value 'native'"},
        lambda sent: sent.charge["units"] == 4.5,
    ),
    Case("cfg_scale", {"cfg_scale": 0.3}, {"cfg_scale": 1.5}, {L: "cfg_scale value '1.5'"}, surfaces=LEGACY),
    Case(
        "camera_control",
        {"camera_control": ZOOM, "model_name": "kling-v1"},
        {"camera_control": {"type": "simple", "config": {"zoom": 11}}, "model_name": "kling-v1"},
        {L: "camera_control.config.zoom value '11'"},
        surfaces=LEGACY,
        retired=True,
    ),
    Case(
        "camera_control",
        {"camera_control": {"type": "down_back"}, "model_name": "kling-v1"},
        {"camera_control": {"type": "down_back", "config": {"zoom": 1}}, "model_name": "kling-v1"},
        {L: "camera_control.config is not supported with type down_back"},
        surfaces=LEGACY,
        retired=True,
    ),
    Case(
        "multi_shot",
        {"multi_shot": True, "shot_type": "intelligence"},
        {"multi_shot": True, "model_name": "kling-v2-6"},
        {L: "multi_shot is not supported by kling-v2-6"},
        surfaces=KLING,
    ),
    Case(
        "shot_type",
        {**MULTI, "multi_prompt": SHOTS},
        {"multi_shot": True, "shot_type": None},
        {L: "shot_type value ''"},
        surfaces=KLING,
    ),
    Case(
        "multi_prompt",
        {**MULTI, "multi_prompt": SHOTS},
        {**MULTI, "multi_prompt": [{"prompt": "x" * 513, "duration": 5}]},
        {L: "multi_prompt[0].prompt is too long"},
        lambda sent: (
            sent.charge["prompt"] in ("1. a boat leaves\n2. it rains", "shot 1, 2, a boat leaves; shot 2, 3, it rains")
        ),
        KLING,
    ),
    Case(
        "multi_prompt",
        {**MULTI, "multi_prompt": SHOTS},
        {**MULTI, "multi_prompt": SHOTS, "duration": 6},
        {L: "add up to 5, but duration is 6"},
        surfaces=KLING,
    ),
    Case(
        "voice_list",
        {**WITH_VOICES, "voice_list": [{"voice_id": "v-1"}, {"voice_id": "v-2"}]},
        {**WITH_VOICES, "voice_list": [{"voice_id": "v-1"}] * 3},
        {L: "voice_list has 3 voices"},
        surfaces=OFFICIAL_LEGACY,
    ),
    Case(
        "watermark_info",
        {"watermark_info": {"enabled": True}},
        shows=lambda sent: bool(sent.task.videos[0].watermark_url),
        surfaces=KLING,
    ),
    Case(
        "callback_url",
        {"callback_url": NOWHERE},
        shows=lambda sent: (
            {one["url"] for one in sent.server.callbacks() if one["task_id"] == sent.task.task_id} == {NOWHERE}
        ),
    ),
]


def each(cases: Iterable[Case]) -> Any:
    return pytest.mark.parametrize(
        ("case", "surface"),
        [
            pytest.param(case, surface, id=f"{number}-{case.name}-{surface.value}")
            for number, case in enumerate(cases)
            for surface in EVERYWHERE
        ],
    )


@each(CASES)
async def test_a_field_arrives_or_is_refused_with_the_reason(
    server: SandboxServer, case: Case, surface: Surface
) -> None:
    wish = request(**case.good)
    if surface not in case.surfaces:
        paths = {violation.field for violation in validate(wish, surface.provider, surface.dialect)}
        assert case.name in paths
        return
    if not case.retired:
        check(wish, surface.provider, surface.dialect)
    sent = await send(server, surface, wish)
    assert case.shows(sent)
    assert sent.charge["external_task_id"] == sent.external_task_id
    assert sent.task.external_task_id == sent.external_task_id


@each(case for case in CASES if case.bad)
async def test_a_value_that_breaks_a_rule_is_refused_by_us_and_would_be_refused_by_the_provider(
    server: SandboxServer, case: Case, surface: Surface
) -> None:
    wish = request(**case.bad)
    with pytest.raises(InvalidRequest):
        check(wish, surface.provider, surface.dialect)
    words = case.refused.get(surface.dialect)
    if words is None or surface not in case.surfaces:
        return
    paid = len(server.charges())
    async with UpstreamClient(surface.account(server)) as client:
        with pytest.raises(UpstreamInvalid) as caught:
            await client.create(wish, f"ext-{next(_numbers)}")
    assert words in caught.value.message
    assert len(server.charges()) == paid


def test_no_field_is_left_out() -> None:
    assert {case.name for case in CASES} == set(TextToVideoRequest.model_fields)


def wishes(surface: Surface) -> Iterator[TextToVideoRequest]:
    """Every model that answers, in each mode, at its shortest and longest, silent and with sound."""
    known = capability_map()
    for name in known.living_in(surface.dialect):
        able = known.abilities(name, surface.dialect)
        assert able is not None
        for mode in able.modes or (Mode.STD,):
            for duration in sorted({able.durations[0], able.durations[-1]}):
                for sound in Sound:
                    wish = request(model_name=name, mode=mode, duration=duration, sound=sound)
                    if not validate(wish, surface.provider, surface.dialect):
                        yield wish


@pytest.mark.parametrize("surface", EVERYWHERE)
async def test_whatever_passes_our_rules_is_taken_and_billed_as_it_was_quoted(
    server: SandboxServer, surface: Surface
) -> None:
    made = {}
    async with UpstreamClient(surface.account(server)) as client:
        for wish in wishes(surface):
            task = await client.create(wish, f"ext-{next(_numbers)}")
            made[task.task_id] = quote(wish, surface.provider, surface.dialect).units
        assert len(made) >= 10
        for task_id, quoted in made.items():
            async with asyncio.timeout(60):
                while not (task := await client.get(task_id)).status.final:
                    pass
            assert task.unit_deduction == quoted
    charged = {one["task_id"]: Decimal(str(one["units"])) for one in server.charges() if one["task_id"] in made}
    assert charged == made
