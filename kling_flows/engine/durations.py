"""How long videos typically take: learned from the ledger, with a prior for what was never seen."""

from __future__ import annotations

from typing import Final

from kling_flows.upstream import Provider, TextToVideoRequest

#: Seconds that a 5 s video takes before anything is learned. Kling: between the 100 to 250 s that production users
#: report for 5 s clips and the 319 s average of ComfyUI's users (fact sheet 5). Sandbox: its own default.
_PRIOR_SECONDS: Final = {Provider.KLING: 180.0, Provider.COMETAPI: 180.0, Provider.SANDBOX: 6.0}

_PRIOR_CLIP_SECONDS: Final = 5


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
