"""The processes of a cell: the sandbox, PostgreSQL where it is the ledger, ``kling-flows serve``, a worker."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from benchmarks.meter import ProcessesChanged
from benchmarks.peers.contract import FOLDER
from benchmarks.peers.meter import PeerMeter
from benchmarks.peers.processes import READY_SECONDS, Command, NotReady, free_port
from benchmarks.peers.services import service
from benchmarks.scale.cells import Cell, Dispatch, LedgerKind
from benchmarks.stack import clean_environment

#: Label of a process by a piece of its command line; the rest of what serve starts is serve's.
_PARTS: Final = {
    "-m grpc_server": "front",
    "kling_flows.runner.prefect_server": "Prefect server",
    "-m kling_flows.runner": "runner",
}

_RUNNER: Final = "kling_flows.runner"

#: Makes the deployments and becomes a worker; it finds Prefect by a peer's variable.
_WORKER: Final = FOLDER / "kling-flows-work-pool" / "worker.py"
_WORKERS_PREFECT: Final = "PEER_PORT_2"

#: More than are ever in flight.
_MAX_IN_FLIGHT: Final = 10_000

_ROOT: Final = FOLDER.parents[1]


@dataclass(frozen=True, slots=True)
class ScaleStack:
    """Everything that runs.

    Args:
        front: Address of the front.
        sandbox: URL of the sandbox.
        meter: Reads the CPU of what belongs to the product, PostgreSQL included, and not the sandbox's.
        commands: What was started.
    """

    front: str
    sandbox: str
    meter: PeerMeter
    commands: Mapping[str, Command]

    def check(self) -> None:
        """Make sure that all of it runs.

        Raises:
            NotReady: something has ended.
        """
        for command in self.commands.values():
            if not command.running:
                raise NotReady(f"{command.name} ended with {command.process.returncode}:\n{command.tail()}")

    def carriers(self) -> Mapping[str, psutil.Process]:
        """The processes that hold the tasks: the runner, and the worker if there is one.

        Raises:
            ProcessesChanged: there is no runner.
        """
        runner = next((each for each in self.commands["serve"].tree() if _RUNNER in each.cmdline()), None)
        if runner is None:
            raise ProcessesChanged("does not run: runner")
        worker = self.commands.get("worker")
        return {"runner": runner} | ({} if worker is None else {"worker": psutil.Process(worker.process.pid)})


@asynccontextmanager
async def running(cell: Cell, folder: Path) -> AsyncGenerator[ScaleStack]:
    """Start everything, with data and logs in ``folder``; afterwards end all of it.

    Raises:
        NotInstalled: there is no PostgreSQL here.
        NotReady: something did not start.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = {**clean_environment(folder), "PATH": path, "PYTHONPATH": str(_ROOT)}
    sandbox, front, prefect, health = (free_port() for _ in range(4))
    async with AsyncExitStack() as stack:
        commands: dict[str, Command] = {}

        async def start(name: str, *arguments: str, ready: int, **variables: str) -> None:
            command = commands[name] = Command(
                name,
                (sys.executable, *arguments),
                environment={**environment, **variables},
                folder=folder,
                log=folder / f"{name}.log",
                ready=ready,
            )
            await stack.enter_async_context(command)
            await command.wait_ready()

        await start("sandbox", *_sandbox_arguments(sandbox), ready=sandbox)
        settings = _settings(cell, folder, sandbox=sandbox, front=front, prefect=prefect)
        if cell.ledger is LedgerKind.POSTGRESQL:
            postgres, found = await stack.enter_async_context(
                service("postgres", folder / "postgres", folder, environment)
            )
            commands["postgres"] = postgres
            settings["KLING_FLOWS_LEDGER_URL"] = found["POSTGRES_URL"]
        await start("serve", "-m", "kling_flows.cli", "serve", ready=prefect, **settings)
        await _answered(f"http://127.0.0.1:{prefect}/api/health")
        if cell.dispatch is Dispatch.WORK_POOL:
            own = {
                _WORKERS_PREFECT: str(prefect),
                "PREFECT_HOME": str(folder / "worker"),
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(health),
            }
            await start("worker", str(_WORKER), ready=health, **settings, **own)
        yield ScaleStack(
            front=f"127.0.0.1:{front}",
            sandbox=f"http://127.0.0.1:{sandbox}",
            meter=PeerMeter([each for name, each in commands.items() if name != "sandbox"], _PARTS),
            commands=commands,
        )


async def _answered(url: str) -> None:
    # Prefect's server listens long before it answers.
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=READY_SECONDS) as client:
            (await client.get(url)).raise_for_status()
    except httpx.HTTPError as error:
        raise NotReady(f"Prefect's server does not answer: {type(error).__name__}: {error}") from error


def _sandbox_arguments(port: int) -> Sequence[str]:
    return (
        *("-m", "kling_flows.sandbox", "--port", str(port), "--video", "tiny", "--concurrency", "0"),
        # It shows no end before it is told to.
        *("--seconds", "1:1"),
    )


def _settings(cell: Cell, folder: Path, *, sandbox: int, front: int, prefect: int) -> dict[str, str]:
    return {
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_UPSTREAM_URL": f"http://127.0.0.1:{sandbox}",
        "KLING_FLOWS_STATE_DIR": str(folder / "state"),
        "KLING_FLOWS_LISTEN": f"127.0.0.1:{front}",
        "KLING_FLOWS_PREFECT_LISTEN": f"127.0.0.1:{prefect}",
        "KLING_FLOWS_DIALECT": "standard",
        "KLING_FLOWS_DISPATCH": cell.dispatch,
        "KLING_FLOWS_POLL_INTERVAL": str(cell.poll_interval),
        "KLING_FLOWS_MAX_IN_FLIGHT": str(_MAX_IN_FLIGHT),
    }
