"""How often, and how many at a time, a tenant may call."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from kling_flows.errors import RateLimited

#: Seconds' worth of creates that a tenant may send at once after it was silent for as long.
BURST_SECONDS: Final = 10.0

#: Seconds after which a place among the calls, or the streams, may be free again.
_CALL_RETRY_SECONDS: Final = 1.0
_WATCH_RETRY_SECONDS: Final = 10.0


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class _Place:
    """One of a tenant's calls while it is open."""

    # A class: what `contextmanager` makes of a generator costs a call three times as much.
    __slots__ = ("_open_calls", "_tenant")

    def __init__(self, open_calls: Counter[str], tenant: str) -> None:
        self._open_calls = open_calls
        self._tenant = tenant

    def __enter__(self) -> None:
        self._open_calls[self._tenant] += 1

    def __exit__(self, *_error: object) -> None:
        self._open_calls[self._tenant] -= 1
        if not self._open_calls[self._tenant]:
            del self._open_calls[self._tenant]


class TenantLimits:
    """The limits of every tenant at this front; a limit that is None does not exist.

    Args:
        create_rate: Video tasks created per second.
        max_calls: Unary calls at a time.
        max_watches: Streams at a time.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        *,
        create_rate: float | None = None,
        max_calls: int | None = None,
        max_watches: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._create_rate = create_rate
        self._max = {False: max_calls, True: max_watches}
        self._open: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        self._buckets: dict[str, _Bucket] = {}
        self._clock = clock

    def call(self, tenant: str, *, streaming: bool) -> AbstractContextManager[None]:
        """Hold a place for a call while the context is open.

        Raises:
            RateLimited: the tenant has too many open.
        """
        most, open_calls = self._max[streaming], self._open[streaming]
        if most is not None and open_calls[tenant] >= most:
            what, retry = ("streams", _WATCH_RETRY_SECONDS) if streaming else ("calls", _CALL_RETRY_SECONDS)
            raise RateLimited(
                f"{most} {what} of the tenant {tenant!r} are open here, which is the limit; end one, or try later",
                subject=f"tenant:{tenant}/{what}",
                retry_after=retry,
            )
        return _Place(open_calls, tenant)

    def take_creates(self, tenant: str, count: int = 1) -> None:
        """Count creates against the rate.

        Raises:
            RateLimited: they come too fast; none is counted.
        """
        if self._create_rate is None:
            return
        now, most = self._clock(), max(self._create_rate * BURST_SECONDS, 1.0)
        bucket = self._buckets.setdefault(tenant, _Bucket(most, now))
        bucket.tokens = min(most, bucket.tokens + (now - bucket.filled_at) * self._create_rate)
        bucket.filled_at = now
        # A batch may be larger than the bucket: it passes when that is full, and is paid off afterwards.
        missing = min(count, most) - bucket.tokens
        if missing > 1e-9:
            raise RateLimited(
                f"the tenant {tenant!r} may create {self._create_rate:g} video tasks a second here; try again later",
                subject=f"tenant:{tenant}/creates-per-second",
                retry_after=missing / self._create_rate,
            )
        bucket.tokens -= count
