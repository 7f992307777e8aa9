"""How long videos take: learned from the ledger, with a prior for what was never seen."""

from __future__ import annotations

import math
from typing import Final

from kling_flows.ledger import Ledger
from kling_flows.upstream import Provider, TextToVideoRequest

#: Seconds that a 5 s video takes before anything is learned. Kling: between the 100 to 250 s that production users
#: report for 5 s clips and the 319 s average of ComfyUI's users (fact sheet 5). Sandbox: its own default.
_PRIOR_SECONDS: Final = {Provider.KLING: 180.0, Provider.COMETAPI: 180.0, Provider.SANDBOX: 6.0}

_PRIOR_CLIP_SECONDS: Final = 5

#: How much shorter than the shortest of one sample the next one may well be; of n samples, divided by the root of n.
_DOUBT: Final = 0.5


def duration_key(provider: str, request: TextToVideoRequest) -> str:
    """What videos of about the same length of wait have in common."""
    return f"{provider}/{request.model_name}/{request.mode}/{request.duration}s"


def typical_seconds(known: dict[str, float], provider: str, request: TextToVideoRequest) -> float:
    """Seconds from submit to end that such a video typically takes."""
    learned = known.get(duration_key(provider, request))
    if learned is not None:
        return learned
    prior = _PRIOR_SECONDS[Provider(provider)]
    # The sandbox's time does not depend on the clip; a real model's grows with it.
    return prior if provider == Provider.SANDBOX else prior * max(1.0, request.duration / _PRIOR_CLIP_SECONDS)


async def earliest_seconds(ledger: Ledger, provider: str, request: TextToVideoRequest) -> float | None:
    """Seconds from submit before which hardly any such video ends; None if nothing was learned.

    Raises:
        LedgerUnavailable: the ledger cannot be read.
    """
    known = await ledger.read_shortest(duration_key(provider, request))
    if known is None:
        return None
    shortest, samples = known
    return shortest * (1 - _DOUBT / math.sqrt(samples))
