"""One runner's lease on all that it holds, and its eye on its peers.

A lease is a row whose ``beat`` grows. Peers judge it by their own monotonic clock: no wall clock decides anything, so a
clock that steps breaks nothing. On one machine a dead runner is recognised at once, because the kernel has let go of
the lock on its file; elsewhere when its beat has stood still for ``EXPIRY_SECONDS``. Whoever was judged dead and is
not (stopped, or cut off) finds out at its next write: every write names the runner and happens only while the task is
still its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Final

import structlog

from kling_flows.engine.identity import new_runner_id
from kling_flows.errors import LedgerUnavailable
from kling_flows.ledger import HANDS_ON, Lease, Ledger

log = structlog.get_logger(__name__)

#: Seconds between renewals, and between looks at the peers.
RENEW_SECONDS: Final = 3.0

#: Seconds for which a peer's beat stands still before its tasks are taken over.
EXPIRY_SECONDS: Final = 15.0

#: Most seconds between two looks at the peers that count against them. If there were more, it may be that nobody could
#: write, or that this process itself was stopped.
_COUNTED_SECONDS: Final = 2 * RENEW_SECONDS

#: Seconds between looks at which tasks are still ours: this is how soon a cancel reaches a waiting task.
_HELD_SECONDS: Final = 1.0


class LeaseKeeper:
    """Holds a lease while :meth:`held` is open.

    Args:
        ledger: Where the lease is.
        state_dir: Where the lock file goes; must be on a file system whose locks work.
        hands_on: What it holds is carried by others, who may take it at any time.
    """

    def __init__(self, ledger: Ledger, state_dir: Path, *, hands_on: bool = False) -> None:
        self.runner_id = (HANDS_ON if hands_on else "") + new_runner_id()
        #: Set when peers have judged this runner dead; it must not go on under this identity.
        self.lost = asyncio.Event()
        self._ledger = ledger
        self._lock_file = state_dir / "runners" / f"{self.runner_id}.lock"
        self._watched: dict[str, Callable[[], None]] = {}
        # The beat of each peer, and since when it stands still, on a clock that runs while this runner looks.
        self._peers: dict[str, tuple[int, float]] = {}
        self._clock = 0.0
        self._looked = 0.0

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Announce this runner, renew until the context ends, then free whatever it still holds."""
        with await asyncio.to_thread(_take_lock, self._lock_file):
            await self._ledger.open_lease(
                Lease(
                    runner_id=self.runner_id,
                    beat=0,
                    host=f"{socket.gethostname()}/{os.getpid()}/{this_machine()}",
                    lock_file=str(self._lock_file.absolute()),
                )
            )
            loops = [
                asyncio.create_task(self._every(RENEW_SECONDS, self._renew), name="lease-renew"),
                asyncio.create_task(self._every(_HELD_SECONDS, self._check_held), name="lease-held"),
            ]
            try:
                yield
            finally:
                for loop in loops:
                    loop.cancel()
                await asyncio.wait(loops)
                await self._ledger.end_lease(self.runner_id)
                await asyncio.to_thread(self._lock_file.unlink, missing_ok=True)

    @contextmanager
    def watching(self, task_id: str, on_lost: Callable[[], None]) -> Generator[None]:
        """Call ``on_lost`` if the task is no longer held: cancelled, or carried on by another runner."""
        self._watched[task_id] = on_lost
        try:
            yield
        finally:
            # Whoever took it up anew here watches for himself.
            if self._watched.get(task_id) is on_lost:
                del self._watched[task_id]

    async def free_dead_peers(self) -> int:
        """Free the tasks of runners that are dead; returns how many."""
        freed = 0
        leases = [lease for lease in await self._ledger.read_leases() if lease.runner_id != self.runner_id]
        looked, self._looked = self._looked, time.monotonic()
        self._clock = now = self._clock + min(self._looked - looked, _COUNTED_SECONDS)
        self._peers = {lease.runner_id: self._last_change(lease, now) for lease in leases}
        for lease in leases:
            still = now - self._peers[lease.runner_id][1]
            lock_file = Path(lease.lock_file)
            if still >= EXPIRY_SECONDS or (is_here(lease) and await asyncio.to_thread(_lock_is_free, lock_file)):
                count = await self._ledger.end_lease(lease.runner_id, lease.beat)
                log.warning("took over from a dead runner", dead=lease.runner_id, host=lease.host, video_tasks=count)
                with suppress(OSError):
                    await asyncio.to_thread(lock_file.unlink, missing_ok=True)
                freed += count
        return freed

    def _last_change(self, lease: Lease, now: float) -> tuple[int, float]:
        known = self._peers.get(lease.runner_id)
        return known if known is not None and known[0] == lease.beat else (lease.beat, now)

    async def _every(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await action()
            except LedgerUnavailable as error:
                # Nothing is decided without the ledger; a peer may take over meanwhile, and the fence holds.
                log.warning("the lease cannot be looked after", error=error.message)
            except Exception:
                # Without this loop the lease would end under a runner that knows nothing of it.
                log.exception("the lease cannot be looked after")

    async def _renew(self) -> None:
        if not await self._ledger.renew_lease(self.runner_id):
            log.error("peers have declared this runner dead", runner_id=self.runner_id)
            self.lost.set()
        await self.free_dead_peers()

    async def _check_held(self) -> None:
        if not self._watched:
            return
        watched = dict(self._watched)
        held = await self._ledger.held_by(self.runner_id)
        for task_id, on_lost in watched.items():
            if task_id not in held:
                on_lost()


@cache
def this_machine() -> str:
    """What the processes have in common whose locks this kernel knows: it differs after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def is_here(lease: Lease) -> bool:
    """Whether a lock tells of its runner: on a file system that machines share, each may grant its own."""
    return lease.host.rpartition("/")[2] == this_machine()


def _take_lock(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = open(path, "w")  # noqa: SIM115 - the caller closes it, and with it lets go of the lock
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _lock_is_free(path: Path) -> bool:
    try:
        with open(path, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Locked by a living runner, or not a file of this machine.
        return False
    return True
