"""Everything that goes wrong between us and the provider, in both dialects."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from kling_flows.upstream.constants import Dialect
from tests.faults.scenarios import Play, Rules, Scenario
from tests.faults.trial import PORT, REFUSED, Trial

_SECRET: Final = "whsec_" + base64.b64encode(bytes(range(24))).decode()

#: Of the sandbox: its callbacks are signed.
SIGNED: Final = ("--callback-secret", _SECRET)

#: Settings of a server that speaks the standard dialect.
STANDARD: Final = {"KLING_FLOWS_DIALECT": Dialect.STANDARD}

_HTTP: Final = f"127.0.0.1:{PORT}"

#: Settings of a server that the provider calls.
CALLED: Final = {"KLING_FLOWS_HTTP_LISTEN": _HTTP, "KLING_FLOWS_CALLBACK_BASE_URL": f"http://{_HTTP}"}

#: The same, and it checks who calls. Without that a forged call gets through, and must be no more than a hint.
CALLED_AND_CHECKED: Final = {**CALLED, "KLING_FLOWS_CALLBACK_SECRETS": f'["{_SECRET}"]'}

#: Answers to a create that was accepted, and that cannot be read.
UNREADABLE: Final[Rules] = (
    {"fault": "reset_mid_body", "on": "create"},
    {"fault": "truncated_json", "on": "create"},
    {"fault": "wrong_length", "on": "create"},
    {"fault": "empty", "on": "create"},
    {"fault": "missing_data", "on": "create"},
    {"fault": "html", "on": "create", "status": 502, "accept": "yes"},
    {"fault": "html", "on": "create", "status": 200, "accept": "no"},
)

#: What 5001 and 5002 say of the order is not known (fact sheet 7.3), and so it is played in every way.
UNKNOWN: Final[Rules] = (
    {"fault": "http_error", "on": "create", "code": 5001, "accept": "yes"},
    {"fault": "http_error", "on": "create", "code": 5001, "accept": "no"},
    {"fault": "http_error", "on": "create", "code": 5002, "accept": "yes"},
    {"fault": "http_error", "on": "create", "code": 5002, "accept": "late", "seconds": 2},
    {"fault": "drop_before_accept"},
    {"fault": "slow", "on": "create", "seconds": 2},
)

#: 429 or not: none of these passes by itself (fact sheet 7.1).
PERMANENT: Final = (1100, 1101, 1102, 1103, 1300, 1301, 1304)

#: The same for every query; nothing is charged for one.
_READS: Final = (
    {"fault": "reset_mid_body"},
    {"fault": "truncated_json"},
    {"fault": "html", "status": 502},
    {"fault": "html", "status": 200},
    {"fault": "empty"},
    {"fault": "slow", "seconds": 1},
    {"fault": "http_error", "code": 5000},
    {"fault": "http_error", "code": 5001},
    {"fault": "http_error", "code": 5002},
    {"fault": "http_error", "code": 1302},
)

READS: Final[Rules] = tuple({**rule, "on": operation} for operation in ("get", "list") for rule in _READS)

DOWNLOADS: Final[Rules] = (
    {"fault": "video_truncated"},
    {"fault": "video_wrong_length"},
    {"fault": "video_html"},
    {"fault": "video_expired"},
    {"fault": "reset_mid_body", "on": "download"},
    {"fault": "slow", "on": "download", "seconds": 1},
    {"fault": "http_error", "on": "download", "status": 503},
)

#: ``lost`` for the end of a task leaves it to the reconciliation.
CALLBACKS: Final[Rules] = (
    {"fault": "early"},
    {"fault": "reordered"},
    {"fault": "lost", "on": "callback"},
    {"fault": "duplicated", "on": "callback"},
    {"fault": "forged", "on": "callback"},
    {"fault": "slow", "on": "callback", "seconds": 2},
    {"fault": "unknown_status", "on": "callback"},
)


def at_rate(rules: Rules, rate: float) -> Rules:
    """Each rule for this share of the calls that the ones before it leave."""
    return tuple({**rule, "rate": rate} for rule in rules)


def so_often(rules: Rules, times: int) -> Rules:
    """Each rule for so many calls."""
    return tuple({**rule, "times": times} for rule in rules)


def refusals(each: int) -> Rules:
    """Every permanent refusal, for so many of the orders that are to be refused."""
    return tuple(
        {"fault": "http_error", "on": "create", "code": code, "match": REFUSED, "times": each} for code in PERMANENT
    )


def _provider(*rules: Mapping[str, Any]) -> Play:
    async def play(on: Trial, count: int) -> None:
        on.provider.faults(*rules)
        await on.create(count)

    return play


async def _refused(on: Trial, count: int) -> None:
    each = max(1, count // 20)
    on.provider.faults(*refusals(each))
    await on.create(count, refused=each * len(PERMANENT))


async def _throttled(on: Trial, count: int) -> None:
    on.provider.faults({"fault": "concurrency", "times": count}, {"fault": "throttle", "times": count})
    await on.create(count)


def _in_both(scenario: Scenario) -> tuple[Scenario, Scenario]:
    name, fault = f"{scenario.name}-standard", f"{scenario.fault}; standard dialect"
    return scenario, replace(scenario, name=name, fault=fault, settings={**STANDARD, **scenario.settings})


_ACCEPT_THEN_DROP: Final = Scenario(
    "accept-then-drop-standard",
    "create: accepted, then the connection is cut (20 %); standard dialect",
    _provider({"fault": "accept_then_drop", "rate": 0.2}),
    settings=STANDARD,
)

_UNREADABLE: Final = Scenario(
    "unreadable",
    "create: reset, cut JSON, wrong length, empty, no data, HTML (8 % each)",
    _provider(*at_rate(UNREADABLE, 0.08)),
)

_UNKNOWN: Final = Scenario(
    "unknown",
    "create: 5001 and 5002 accepted or not or late, cut before, slow (8 % each)",
    _provider(*at_rate(UNKNOWN, 0.08)),
)

_REFUSED: Final = Scenario("refused", "create: 1100 to 1103, 1300, 1301, 1304 (5 % each)", _refused, refused=True)

_THROTTLED: Final = Scenario(
    "throttled-standard", "create: 1302 and 1303 in a row; standard dialect", _throttled, settings=STANDARD
)

#: One call reads many tasks, so that there are few calls to strike: the videos take longer, and the rates are high.
_READ: Final = Scenario(
    "reads",
    "query and list: reset, cut JSON, HTML, empty, slow, 500x, 1302 (6 % each)",
    _provider(*at_rate(READS, 0.06)),
    seconds="3:30",
)

_DOWNLOADS: Final = Scenario(
    "downloads-standard",
    "video: truncated, wrong length, HTML, expired, reset, slow, 503 (8 % each); standard dialect",
    _provider(*at_rate(DOWNLOADS, 0.08), {"fault": "video_expired", "on": "get", "rate": 0.08}),
    settings=STANDARD,
)

_CALLBACKS: Final = Scenario(
    "callbacks",
    "callback: early, reordered, lost, twice, forged, slow, unknown (12 % each)",
    _provider(*at_rate(CALLBACKS, 0.12)),
    settings=CALLED_AND_CHECKED,
    sandbox=SIGNED,
)

_OPEN_CALLBACKS: Final = replace(
    _CALLBACKS,
    name="callbacks-open",
    fault="callback: the same, and nobody checks signatures",
    settings=CALLED,
    sandbox=(),
)

NETWORK: Final = (
    _ACCEPT_THEN_DROP,
    *_in_both(_UNREADABLE),
    *_in_both(_UNKNOWN),
    *_in_both(_REFUSED),
    _THROTTLED,
    *_in_both(_READ),
    _DOWNLOADS,
    *_in_both(_CALLBACKS),
    _OPEN_CALLBACKS,
)
