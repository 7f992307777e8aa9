"""How one sandbox behaves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kling_flows.errors import ConfigurationError


class VideoSource(StrEnum):
    """Where the videos come from."""

    #: Each order gets an MP4 of its own that shows its prompt; needs the extra ``sandbox``.
    RENDERED = "rendered"
    #: Every order gets the same small clip that comes with the package; costs no CPU, for load tests.
    TINY = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Settings of one sandbox.

    The last four are open questions about the real service (fact sheet 7.3 and 11): nobody has shown how it answers,
    so a client must be right either way, and the sandbox can play both.

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

    def __post_init__(self) -> None:
        shortest, longest = self.seconds
        if not 0 <= shortest <= longest:
            raise ConfigurationError("seconds", "two numbers are wanted, the first at least 0 and not above the second")
        if self.concurrency < 0:
            raise ConfigurationError("concurrency", "a number of tasks is wanted, or 0 for no limit")
        if self.render_workers < 1:
            raise ConfigurationError("render_workers", "at least 1 is wanted")


def parse_seconds(text: str) -> tuple[float, float]:
    """Read ``MIN:MAX`` or one number for both, in seconds.

    Raises:
        ValueError: ``text`` is neither.
    """
    shortest, _, longest = text.partition(":")
    return float(shortest), float(longest or shortest)
