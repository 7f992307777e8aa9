"""Several runners on one ledger: one dies, or is stopped for longer than its lease, and the other one goes on."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from kling_flows.ledger import Lease, Ledger, State
from kling_flows.ledger import VideoTask as LedgerTask
from kling_flows.v1.video_task_pb2 import VideoTask
from tests.faults.scenarios import Play, Scenario
from tests.faults.trial import RUNNER, Trial

#: Takeovers of one scenario.
_NEAR: Final = 4
_FAR: Final = 2

#: What a runner has brought some task to when it dies, in turn.
_MOMENTS: Final = (VideoTask.SUBMITTED, VideoTask.ARCHIVING, VideoTask.SUBMITTING, VideoTask.PROCESSING)

#: Longest time until the tasks of a dead runner are carried on, in seconds.
TAKEOVER_SECONDS: Final = 30.0

#: What a runner logs when it begins.
_CARRIES: Final = "carrying video tasks"

#: Exit code of a runner that has to come back under another identity.
_TRY_AGAIN: Final = 75


class Fleet:
    """Two runners beside a front, under no supervisor."""

    def __init__(self, on: Trial, ledger: Ledger) -> None:
        self.on = on
        self.ledger = ledger
        self._runners: dict[int, subprocess.Popen[bytes]] = {}
        self._started = 0

    async def complete(self) -> None:
        """Start runners until there are two, and wait until both carry tasks."""
        while len(self._runners) < 2:
            runner = self.on.start(RUNNER, stop=signal.SIGKILL)
            self._runners[runner.pid] = runner
            self._started += 1
        # A lease comes sooner: a runner looks for Prefect before it claims anything.
        await self.on.until(lambda: self._said(_CARRIES) == self._started, "two runners carry tasks")

    async def fullest(self, state: VideoTask.State.ValueType) -> tuple[subprocess.Popen[bytes], Lease, set[str]]:
        """The runner that holds most, once it has brought one of its tasks at least so far, and what it holds."""

        async def found() -> Any:
            held = {lease.runner_id: await self.ledger.held_by(lease.runner_id) for lease in await self._leases()}
            lease = max(await self._leases(), key=lambda lease: len(held.get(lease.runner_id, ())))
            names = held.get(lease.runner_id, set())
            known = [task for name in names if (task := self.on.tasks.get(f"videoTasks/{name}"))]
            return any(task.state >= state for task in known) and (self._runners[_pid(lease)], lease, names)

        return await self.on.until(found, f"a runner has brought a task to {VideoTask.State.Name(state)}")

    async def carried_on(self, names: set[str], dead: Lease) -> None:
        """Wait until each of the tasks is held by another runner, or has ended."""

        async def done() -> bool:
            others = [lease for lease in await self._leases() if lease.runner_id != dead.runner_id]
            held = [await self.ledger.held_by(lease.runner_id) for lease in others]
            left = names.difference(*held)
            return all([(await self.ledger.get(name)).state.final for name in left])

        await self.on.until(done, "the tasks are taken over")

    def forget(self, runner: subprocess.Popen[bytes]) -> None:
        """It has ended; :meth:`complete` starts another one for it."""
        del self._runners[runner.pid]

    def other(self, runner: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        [other] = [known for pid, known in self._runners.items() if pid != runner.pid]
        return other

    def freeze(self, runner: subprocess.Popen[bytes]) -> None:
        """Stop it at a moment at which it does not write."""
        while True:
            runner.send_signal(signal.SIGSTOP)
            with closing(sqlite3.connect(_ledger_file(self.on), timeout=0.2, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("ROLLBACK")
                except sqlite3.OperationalError:
                    runner.send_signal(signal.SIGCONT)
                    continue
            return

    def _said(self, words: str) -> int:
        return self.on.log(RUNNER).read_text().count(words)

    async def _leases(self) -> list[Lease]:
        return [lease for lease in await self.ledger.read_leases() if _pid(lease) in self._runners]


@asynccontextmanager
async def fleet(on: Trial) -> AsyncGenerator[Fleet]:
    """Prefect and two runners for a trial that serves a front only."""
    async with await Ledger.open(f"sqlite:///{_ledger_file(on)}") as ledger:
        made = Fleet(on, ledger)
        await on.start_prefect()
        await made.complete()
        yield made


def dying(times: int, *, far: bool) -> Play:
    """Each time, the runner that holds most dies; what it held has to be carried on within ``TAKEOVER_SECONDS``.

    Args:
        times: How often.
        far: As if on another machine: nothing but its beat tells that it is dead.
    """

    async def play(on: Trial, count: int) -> None:
        # How often each was sent to the provider, by id.
        accepted: dict[str, int] = {}
        async with fleet(on) as runners:
            for number in range(times):
                await runners.complete()
                await on.create(count // times + (number < count % times))
                runner, lease, names = await runners.fullest(_MOMENTS[number % len(_MOMENTS)])
                known = [await runners.ledger.get(name) for name in names]
                accepted |= {
                    task.id: task.upstream.submit_attempts for task in known if task.upstream and task.upstream.task_id
                }
                if far:
                    Path(lease.lock_file).unlink()
                runner.kill()
                on.blows += 1
                began = time.monotonic()
                await runners.carried_on(names, lease)
                on.recoveries.append(time.monotonic() - began)
                runners.forget(runner)
                assert on.recoveries[-1] <= TAKEOVER_SECONDS, f"taken over only after {on.recoveries[-1]:.1f} s"
            await on.all_ended()
            ended = [await runners.ledger.get(name) for name in accepted]
            again = [task.id for task in ended if task.upstream and task.upstream.submit_attempts != accepted[task.id]]
            assert not again, f"{again} were submitted once more, although the answers were in the ledger"

    return play


def stopped(*, submitting: bool) -> Play:
    """A runner is stopped for longer than its lease and wakes: it ends, and its flow runs are Crashed.

    Args:
        submitting: Stop it while answers to its creates are on their way. It may write those down, and nothing else:
            whoever learns of what is paid must not keep it to himself.
    """

    async def play(on: Trial, count: int) -> None:
        async with fleet(on) as runners:
            await on.create(count)
            runner, lease, names = await runners.fullest(VideoTask.SUBMITTED)
            if not submitting:
                await on.until(lambda: on.reached(VideoTask.SUBMITTED) == count, "all are submitted")
            runners.freeze(runner)
            on.blows += 1
            began = time.monotonic()
            tasks = [await runners.ledger.get(name) for name in names]
            runs = {task.flow_run.id for task in tasks if task.flow_run is not None and not task.state.final}
            await runners.carried_on(names, lease)
            on.recoveries.append(time.monotonic() - began)
            assert on.recoveries[-1] <= TAKEOVER_SECONDS, f"taken over only after {on.recoveries[-1]:.1f} s"
            written = await _written_by_waking(runners, runner)
            assert submitting or not written, f"it wrote {written} although others carried them on"
            assert all(task.state is State.SUBMITTED for task in written), f"it wrote more than answers: {written}"
            assert runner.returncode == _TRY_AGAIN, f"it ended with {runner.returncode}"
            await on.all_ended()
            await on.until(lambda: _shown(on, runs) == {"CRASHED"}, f"its {len(runs)} flow runs are Crashed")

    return play


async def _written_by_waking(runners: Fleet, runner: subprocess.Popen[bytes]) -> list[LedgerTask]:
    """Let it go on until it ends; with the other one at rest, whatever is written meanwhile is written by it."""
    other = runners.other(runner)
    runners.freeze(other)
    try:
        head = await runners.ledger.head()
        runner.send_signal(signal.SIGCONT)
        await runners.on.until(lambda: runner.poll() is not None, "the runner has found out")
        return [event.task for event in await runners.ledger.read_events(head, 1_000)]
    finally:
        other.send_signal(signal.SIGCONT)


def _shown(on: Trial, runs: set[str]) -> set[str]:
    found = on.server.prefect("flow_runs/filter", flow_runs={"id": {"any_": sorted(runs)}})
    return {run["state_type"] for run in found}


def _ledger_file(on: Trial) -> Path:
    return on.folder / "state" / "ledger.db"


def _pid(lease: Lease) -> int:
    # Host name, process, machine.
    return int(lease.host.split("/")[1])


_FRONT_ONLY: Final = ("--role", "front")

TAKEOVERS: Final = (
    Scenario(
        "takeover",
        f"two runners: kill -9 of the fuller one, {_NEAR} times",
        dying(_NEAR, far=False),
        arguments=_FRONT_ONLY,
    ),
    Scenario(
        "takeover-far",
        f"two runners, as if on two machines: kill -9 of the fuller one, {_FAR} times",
        dying(_FAR, far=True),
        arguments=_FRONT_ONLY,
    ),
    Scenario(
        "stopped",
        "two runners: one is stopped (SIGSTOP) for longer than its lease, and wakes",
        stopped(submitting=False),
        arguments=_FRONT_ONLY,
        seconds="40:60",
    ),
    Scenario(
        "stopped-submitting",
        "two runners: one is stopped while it submits, for longer than its lease, and wakes",
        stopped(submitting=True),
        arguments=_FRONT_ONLY,
        seconds="20:30",
    ),
)
