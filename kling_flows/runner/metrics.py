"""Where a runner's metrics are served."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from kling_flows.errors import ConfigurationError
from kling_flows.settings import Settings, split_loopback_address
from kling_flows.telemetry.measures import Measures
from kling_flows.upstream.errors import ErrorClass

log = structlog.get_logger(__name__)

SETTING: Final = "KLING_FLOWS_RUNNER_METRICS_LISTEN"

#: What a call of the provider may end with.
OUTCOMES: Final = ("ok", "cancelled", *(kind.value for kind in ErrorClass))


@dataclass(slots=True)
class InFlight:
    """How many video tasks the runner carries; known once there is a dispatch to ask."""

    ask: Callable[[], int] = lambda: 0


@contextmanager
def runner_measures(settings: Settings, in_flight: InFlight) -> Generator[Measures]:
    """What the engine is to tell, served on ``settings.runner_metrics_listen`` while the context is open.

    Raises:
        ConfigurationError: the address is malformed, reachable from other machines, or cannot be opened.
    """
    if settings.runner_metrics_listen is None:
        yield Measures()
        return
    host, port = metrics_address(settings.runner_metrics_listen)
    # On demand: a runner without it starts sooner.
    from kling_flows.telemetry.runner import RunnerMetrics

    metrics = RunnerMetrics(OUTCOMES, lambda: in_flight.ask())
    try:
        serving = metrics.serve(host, port)
    except OSError as error:
        raise ConfigurationError(
            SETTING,
            f"{host}:{port} cannot be opened ({error.strerror}); stop what listens there, or listen elsewhere, for "
            "example on 127.0.0.1:0 for any free port",
        ) from None
    with serving as real_port:
        log.info("metrics are served", address=f"{host}:{real_port}")
        yield metrics


def metrics_address(configured: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines.
    """
    return split_loopback_address(
        SETTING,
        configured,
        ", and whoever asks is answered; listen on 127.0.0.1:<port> and let the machine's own collector ask there",
    )
