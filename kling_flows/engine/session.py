"""Which engine the code at hand works with: the runner's, or one that is opened for the occasion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from kling_flows.engine.engine import Engine
from kling_flows.errors import LeaseLost
from kling_flows.settings import Settings

_current: ContextVar[Engine] = ContextVar("kling-flows-engine")

#: Set by the first line of a flow; whoever starts flows one at a time waits for it.
flow_started: ContextVar[asyncio.Event] = ContextVar("kling-flows-flow-started")


class Holder:
    """What one flow run carries, where several runs share an engine: the lease does not tell them from each other.

    Args:
        holders: Who carries which video task; one for all that share the engine.
    """

    def __init__(self, holders: dict[str, Holder]) -> None:
        self._holders = holders

    def take(self, task_id: str) -> None:
        """Carry the task from now on.

        Raises:
            LeaseLost: another run of this engine carries it.
        """
        if self._holders.setdefault(task_id, self) is not self:
            raise LeaseLost(f"videoTasks/{task_id} is carried by another flow run of this process; it goes on there")

    @property
    def task_ids(self) -> frozenset[str]:
        """What it carries."""
        return frozenset(task_id for task_id, holder in list(self._holders.items()) if holder is self)

    def let_go(self) -> None:
        """Carry nothing any more."""
        for task_id in self.task_ids:
            del self._holders[task_id]


#: Set where runs share an engine and may come to the same video task.
holder: ContextVar[Holder] = ContextVar("kling-flows-holder")


def open_engine() -> Engine | None:
    """The engine of this context, if there is one."""
    return _current.get(None)


def current_engine() -> Engine:
    """The engine of this context.

    Raises:
        RuntimeError: there is none; open one with :func:`engine_session`.
    """
    engine = _current.get(None)
    if engine is None:
        raise RuntimeError("no engine is open here; wrap the code in `async with engine_session():`")
    return engine


@asynccontextmanager
async def engine_session(engine: Engine | None = None, settings: Settings | None = None) -> AsyncGenerator[Engine]:
    """Make an engine current: the given one, the one that is current already, or a new one made from the settings.

    Raises:
        ConfigurationError: a new one is needed and the settings do not allow it.
    """
    known = engine or _current.get(None)
    if known is not None:
        token = _current.set(known)
        started = flow_started.get(None)
        if started is not None:
            started.set()
        try:
            yield known
        finally:
            _current.reset(token)
        return
    async with Engine.open(settings or Settings.load()) as opened:
        token = _current.set(opened)
        try:
            yield opened
        finally:
            _current.reset(token)
