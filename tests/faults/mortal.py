"""Starts a role of ours so that it kills itself (SIGKILL) at a boundary between two steps, or so that it has a bug.

``python -m tests.faults.mortal kling_flows.cli serve`` serves as always, except that front and runner are started
through this module as well. The environment says what goes wrong:

- ``KLING_FLOWS_TEST_CRASH_AT=after-intent:7:3,mid-download:2:1``: die when the boundary is passed for the 7th time in
  the life of one process, three times in sum; and so on.
- ``KLING_FLOWS_TEST_CRASH_MARKS``: a folder that remembers the deaths, each as ``<boundary>/<number>`` with the time.
- ``KLING_FLOWS_TEST_BUG``: one of ``BUGS``.
"""

from __future__ import annotations

import os
import runpy
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from kling_flows.archive import Download
    from kling_flows.engine.engine import Engine
    from kling_flows.ledger import FlowRunRecord, VideoTask
    from kling_flows.upstream import UpstreamTask
    from kling_flows.upstream.transport import Flight

_AT = "KLING_FLOWS_TEST_CRASH_AT"
_MARKS = "KLING_FLOWS_TEST_CRASH_MARKS"
_BUG = "KLING_FLOWS_TEST_BUG"

#: This module, by name.
MORTAL: Final = "tests.faults.mortal"

#: A tiny clip then comes in several chunks.
_CHUNK_BYTES = 16 * 1024

Strike = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Death:
    """Where a process dies.

    Args:
        boundary: One of ``BOUNDARIES``.
        nth: Which passing of it in the life of a process is the last.
        times: How many processes die there.
    """

    boundary: str
    nth: int
    times: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        boundary, nth, times = text.split(":")
        return cls(boundary, int(nth), int(times))

    def __str__(self) -> str:
        return f"{self.boundary}:{self.nth}:{self.times}"


def mortal_settings(*deaths: Death, marks: Path, bug: str = "") -> dict[str, str]:
    """The variables for :mod:`tests.faults.mortal`."""
    settings = {_AT: ",".join(map(str, deaths)), _MARKS: str(marks), _BUG: bug}
    return {name: value for name, value in settings.items() if value}


def _striker(death: Death, marks: Path) -> Strike:
    folder = marks / death.boundary
    folder.mkdir(parents=True, exist_ok=True)
    passed = 0

    def strike() -> None:
        nonlocal passed
        passed += 1
        if passed != death.nth:
            return
        for number in range(death.times):
            try:
                mark = os.open(folder / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                continue
            os.write(mark, repr(time.time()).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return strike


def _before(owner: Any, name: str, strike: Strike) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        strike()
        return await original(*args, **kwargs)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, strike: Strike) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        strike()
        return result

    setattr(owner, name, wrapped)


def _before_intent(strike: Strike) -> None:
    from kling_flows.engine import submit

    _before(submit, "_intend", strike)


def _after_intent(strike: Strike) -> None:
    from kling_flows.engine import submit

    _after(submit, "_intend", strike)


def _during_post(strike: Strike) -> None:
    from kling_flows.upstream.transport import Flight

    original = Flight.trace

    async def trace(self: Flight, event: str, info: dict[str, Any]) -> None:
        await original(self, event, info)
        if self.creating and event.endswith("send_request_body.complete"):
            strike()

    Flight.trace = trace  # type: ignore[method-assign]


def _after_answer(strike: Strike) -> None:
    from kling_flows.upstream import UpstreamClient

    _after(UpstreamClient, "create", strike)


def _after_commit(strike: Strike) -> None:
    from kling_flows.engine import submit

    _after(submit, "adopt", strike)


def _while_polling(strike: Strike) -> None:
    from kling_flows.engine.polling import PollPlanner

    _after(PollPlanner, "_look", strike)


def _mid_download(strike: Strike) -> None:
    from kling_flows.archive import Download, download

    download.CHUNK_BYTES = _CHUNK_BYTES  # type: ignore[misc]
    original = Download.chunks

    async def chunks(self: Download) -> AsyncIterator[bytes]:
        first = True
        async with aclosing(original(self)) as pieces:
            async for chunk in pieces:
                if not first:
                    strike()
                first = False
                yield chunk

    Download.chunks = chunks  # type: ignore[method-assign]


def _before_publish(strike: Strike) -> None:
    from kling_flows.archive import Download

    original = Download.chunks

    async def chunks(self: Download) -> AsyncIterator[bytes]:
        async with aclosing(original(self)) as pieces:
            async for chunk in pieces:
                yield chunk
        # The storage publishes when it is told that this was all.
        strike()

    Download.chunks = chunks  # type: ignore[method-assign]


def _before_manifest(strike: Strike) -> None:
    import obstore

    original = obstore.put_async

    async def put_async(store: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(".json"):
            strike()
        return await original(store, path, *args, **kwargs)

    obstore.put_async = put_async


def _after_publish(strike: Strike) -> None:
    from kling_flows.archive import VideoArchive

    _after(VideoArchive, "store", strike)


def _before_create(strike: Strike) -> None:
    from kling_flows.ledger import Ledger

    _before(Ledger, "create", strike)


def _after_create(strike: Strike) -> None:
    from kling_flows.ledger import Ledger

    _after(Ledger, "create", strike)


#: In the order of a task's life.
BOUNDARIES: Final[Mapping[str, Callable[[Strike], None]]] = {
    "before-create": _before_create,
    "after-create": _after_create,
    "before-intent": _before_intent,
    "after-intent": _after_intent,
    "during-post": _during_post,
    "after-answer": _after_answer,
    "after-commit": _after_commit,
    "while-polling": _while_polling,
    "mid-download": _mid_download,
    "before-publish": _before_publish,
    "before-manifest": _before_manifest,
    "after-publish": _after_publish,
}

#: All others are passed by the runner.
OF_THE_FRONT: Final = frozenset({"before-create", "after-create"})


def _does_not_look() -> None:
    """After an unknown outcome, take it that nothing was created, and ask again under another external id."""
    from kling_flows.engine import submit

    async def settle(engine: Engine, task: VideoTask) -> VideoTask | None:
        def change(before: VideoTask) -> VideoTask:
            assert before.upstream is not None
            fresh = f"{before.upstream.external_task_id[:40]}-{secrets.token_hex(4)}"
            return before.model_copy(
                update={"upstream": before.upstream.model_copy(update={"external_task_id": fresh})}
            )

        await engine.advance(task.id, change)
        return None

    submit._settle = settle


def _writes_no_intent() -> None:
    """Send first and write down afterwards; each request has an external id of its own."""
    from kling_flows.engine import submit
    from kling_flows.ledger import State

    adopt = submit.adopt

    async def intend(engine: Engine, task: VideoTask, flow_run: FlowRunRecord | None) -> VideoTask:
        upstream = submit._first_intent(engine, task.id).model_copy(
            update={"external_task_id": secrets.token_hex(16), "submit_attempts": 1, "outcome_unknown": True}
        )
        return task.model_copy(update={"state": State.SUBMITTING, "upstream": upstream, "flow_run": flow_run})

    async def write_all(engine: Engine, task: VideoTask, accepted: UpstreamTask) -> VideoTask:
        facts = {"state": task.state, "upstream": task.upstream, "flow_run": task.flow_run}
        await engine.advance(task.id, lambda before: before.model_copy(update=facts))
        return await adopt(engine, task, accepted)

    submit._intend = intend
    submit.adopt = write_all


BUGS: Final[Mapping[str, Callable[[], None]]] = {
    "does-not-look": _does_not_look,
    "writes-no-intent": _writes_no_intent,
}


def _start_children_through_this() -> None:
    from kling_flows.serve.children import Child

    original = Child.__init__

    def start(self: Child, name: str, module: str, arguments: tuple[str, ...] = (), **options: Any) -> None:
        if name in ("front", "runner"):
            module, arguments = MORTAL, (module, *arguments)
        original(self, name, module, arguments, **options)

    Child.__init__ = start  # type: ignore[method-assign]


def main() -> None:
    module = sys.argv.pop(1)
    if module == "kling_flows.cli":
        _start_children_through_this()
    else:
        for text in filter(None, os.environ.get(_AT, "").split(",")):
            death = Death.parse(text)
            BOUNDARIES[death.boundary](_striker(death, Path(os.environ[_MARKS])))
        if bug := os.environ.get(_BUG):
            BUGS[bug]()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
