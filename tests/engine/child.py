"""Runs engines in processes of their own and lets them die, or pause, at a chosen point.

The process that is asked has everything imported and forks for each order, which is far quicker than a fresh start.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from kling_flows.archive import Download, VideoArchive
from kling_flows.engine import lookup, submit
from kling_flows.engine.carry import carry
from kling_flows.engine.engine import Engine
from kling_flows.engine.polling import PollPlanner
from kling_flows.errors import LeaseLost
from kling_flows.ledger import Ledger, State
from kling_flows.settings import Settings
from kling_flows.upstream import UpstreamClient

#: Exit code of a process whose write was refused because another runner holds the task.
LEASE_LOST = 42


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: type, method: str, action: Callable[[], None]) -> None:
    original = getattr(owner, method)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        action()
        return await original(*args, **kwargs)

    setattr(owner, method, wrapped)


def _after(owner: type, method: str, action: Callable[[], None], *, state: State | None = None) -> None:
    original = getattr(owner, method)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        if state is None or result.state is state:
            action()
        return result

    setattr(owner, method, wrapped)


def _within_download() -> None:
    original = Download.chunks

    async def wrapped(self: Download) -> AsyncIterator[bytes]:
        async for chunk in original(self):
            yield chunk
            die()

    Download.chunks = wrapped  # type: ignore[method-assign]


#: Where a process dies, by name.
DEATHS: dict[str, Callable[[], None]] = {
    "before the intent": lambda: _before(Ledger, "advance", die),
    "after the intent": lambda: _before(UpstreamClient, "create", die),
    "after the POST": lambda: _after(UpstreamClient, "create", die),
    "once submitted": lambda: _after(Ledger, "advance", die, state=State.SUBMITTED),
    "while polling": lambda: _before(PollPlanner, "_look", die),
    "once ended": lambda: _after(Ledger, "advance_and_learn", die),
    "within the download": _within_download,
    "after publishing": lambda: _after(VideoArchive, "store", die),
    "once succeeded": lambda: _after(Ledger, "advance", die, state=State.SUCCEEDED),
}


def _pause(state_dir: Path) -> None:
    """Say that the point is reached, and be as stopped as a process can be: once, for nobody wakes it a second time."""
    if (state_dir / "paused").exists():
        return
    (state_dir / "paused").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


#: Where a process stops until it is told to go on, by name.
PAUSES: dict[str, Callable[[Path], None]] = {
    "stops before the POST": lambda where: _before(UpstreamClient, "create", lambda: _pause(where)),
    "stops while polling": lambda where: _before(PollPlanner, "_look", lambda: _pause(where)),
}


async def _carry(order: dict[str, str]) -> int:
    state_dir = Path(order["state_dir"])
    for module in (submit, lookup):
        module.LOOKUP_DELAYS = (0.0, 0.05, 0.1)  # type: ignore[misc]
    if order["point"] in DEATHS:
        DEATHS[order["point"]]()
    else:
        PAUSES[order["point"]](state_dir)
    settings = Settings(
        provider="sandbox",  # type: ignore[arg-type]
        upstream_url=order["url"],
        state_dir=state_dir,
        poll_interval=0.1,
    )
    async with Engine.open(settings) as engine:
        await engine.ledger.claim_one(order["name"], engine.runner_id)
        try:
            await carry(engine, order["name"], None)
        except LeaseLost:
            return LEASE_LOST
    return 0


def _fork(order: dict[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        # The answers have the output for themselves.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        code = asyncio.run(_carry(order))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        print(_wait(order["wait"]) if "wait" in order else _fork(order), flush=True)


if __name__ == "__main__":
    main()
