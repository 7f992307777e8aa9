"""How one sandbox behaves."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from kling_flows.errors import ConfigurationError
from kling_flows.upstream.constants import StatusWord

#: Environment variable with the secrets of callbacks, apart by blanks: other users of a machine see its command lines.
SECRETS_VARIABLE: Final = "KLING_FLOWS_SANDBOX_CALLBACK_SECRETS"


class VideoSource(StrEnum):
    """Where the videos come from."""

    #: Each order gets an MP4 of its own that shows its prompt; needs the extra ``sandbox``.
    RENDERED = "rendered"
    #: Every order gets the same small clip that comes with the package; costs no CPU, for load tests.
    TINY = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Settings of one sandbox.

    ``reject_duplicates``, ``external_id_lookup``, ``lookup_lag`` and what concerns callbacks are open questions about
    the real service (fact sheet 6, 7.3 and 11): nobody has shown how it answers, so a client must be right either way,
    and the sandbox can play both.

    Args:
        seconds: Shortest and longest time from create to the end of a task, in seconds. Kling itself takes one to ten
            minutes (fact sheet 5).
        concurrency: Unfinished tasks per account and model; one more is refused with 429/1303. 20 is what packs of
            2026 include (fact sheet 7.2); 0 stands for no limit.
        video: Where the videos come from.
        seed: Decides generation times and which calls a fault with a rate hits.
        url_lifetime: Seconds until a result URL expires; Kling clears files after 30 days (fact sheet 5).
        cache_bytes: Rendered videos kept on disk; beyond it the least recently used one is dropped and rendered again
            on demand.
        render_workers: Clips rendered at the same time, each on one core.
        discontinued_models: Models whose create is refused as discontinued. ``kling-v1`` is the one seen live
            (fact sheet 2.5); it is also the default model, so that an order without ``model_name`` is refused.
        reject_duplicates: Whether a second create with the same ``external_task_id`` is refused.
        external_id_lookup: Whether a task can be asked for by its ``external_task_id``.
        lookup_lag: Seconds after its create during which a task is "not found" by queries and not listed.
        units: Video units in the account's pack; a create that it cannot pay is refused with 429/1102. ``None`` for a
            pack of 10,000 that is topped up by as many whenever it would run out, 0 for an account without packs.
        limit_costs: Whether a second ``GET /account/costs`` within one second is refused with 429/1302; Kling only
            asks for that (fact sheet 8.3).
        callback_secrets: Secrets (``whsec_...``) that callbacks are signed with; several during a rotation, none for
            callbacks without a signature.
        sign_legacy_callbacks: Whether callbacks of orders by a legacy path are signed as well.
        callback_states: States whose beginning is reported.
        callback_attempts: Attempts at each callback.
        callback_retry_seconds: Seconds before the second attempt; doubled before each further one.
        callback_timeout: Seconds that a receiver has to answer.
        callback_concurrency: Callbacks under way at the same time.
    """

    seconds: tuple[float, float] = (4.0, 8.0)
    concurrency: int = 20
    video: VideoSource = VideoSource.RENDERED
    seed: int = 0
    url_lifetime: float = 30 * 86_400.0
    cache_bytes: int = 512 * 1024 * 1024
    render_workers: int = 1
    discontinued_models: frozenset[str] = frozenset({"kling-v1"})
    reject_duplicates: bool = True
    external_id_lookup: bool = True
    lookup_lag: float = 0.0
    units: float | None = None
    limit_costs: bool = False
    callback_secrets: tuple[str, ...] = field(default=(), repr=False)
    sign_legacy_callbacks: bool = True
    callback_states: frozenset[StatusWord] = frozenset(StatusWord)
    callback_attempts: int = 5
    callback_retry_seconds: float = 1.0
    callback_timeout: float = 5.0
    callback_concurrency: int = 16

    def __post_init__(self) -> None:
        shortest, longest = self.seconds
        if not 0 <= shortest <= longest:
            raise ConfigurationError("seconds", "two numbers are wanted, the first at least 0 and not above the second")
        if self.concurrency < 0:
            raise ConfigurationError("concurrency", "a number of tasks is wanted, or 0 for no limit")
        if self.render_workers < 1:
            raise ConfigurationError("render_workers", "at least 1 is wanted")
        if self.units is not None and not 0 <= self.units < math.inf:
            raise ConfigurationError("units", "a number of units is wanted, at least 0")
        if min(self.callback_attempts, self.callback_concurrency) < 1:
            raise ConfigurationError("callback_attempts and callback_concurrency", "at least 1 is wanted")
        if self.callback_retry_seconds < 0 or self.callback_timeout <= 0:
            raise ConfigurationError("callback_retry_seconds and callback_timeout", "a time is wanted")
        for secret in self.callback_secrets:
            _check_secret(secret)


def _check_secret(secret: str) -> None:
    prefix, _, key = secret.partition("_")
    # Secrets come with and without the padding of their base64.
    padded = key + "=" * (-len(key) % 4)
    try:
        usable = prefix == "whsec" and bool(base64.b64decode(padded, validate=True))
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("callback_secrets", "a secret is whsec_ and a key in base64 behind it")


def parse_seconds(text: str) -> tuple[float, float]:
    """Read ``MIN:MAX`` or one number for both, in seconds.

    Raises:
        ValueError: ``text`` is neither.
    """
    shortest, _, longest = text.partition(":")
    return float(shortest), float(longest or shortest)
