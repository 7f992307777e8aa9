"""The topology of deployments/compose as processes of this machine.

Two fronts and two runners, each with a state of its own; a ledger and a Prefect server's database on PostgreSQL; Redis;
the sandbox as the provider. Prefect and Redis are told what compose.yaml tells them, the places apart.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil

from kling_flows.ledger import Ledger
from tests.deployments.files import compose_environment
from tests.ledger.postgres_server import PASSWORD, PostgresServer, postgres_server
from tests.stack import Sandbox, Server, clean_environment, free_port, process, sandbox, serve, serve_settings, until

from . import binaries
from .redis_server import redis_server

_RUNNER = "kling_flows.runner"

#: User and password of Prefect's API.
_PREFECT_USER = ("prefect", "filled-in")
_PREFECT_AUTH = ":".join(_PREFECT_USER)


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server that starts or runs."""

    api: str
    child: subprocess.Popen[bytes]
    log: Path

    def is_up(self) -> bool:
        assert self.child.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.api}/health", timeout=5).text == "true"
        except httpx.TransportError:
            return False

    def ask(self, path: str, **body: Any) -> Any:
        return httpx.post(f"{self.api}/{path}", json=body, auth=_PREFECT_USER, timeout=60).raise_for_status().json()


@dataclass(frozen=True)
class Installation:
    """All that runs; ``ledger_url`` is by a socket and without a password."""

    provider: Sandbox
    ledger_url: str
    prefect: PrefectServer
    fronts: tuple[Server, ...]
    runners: tuple[Server, ...]

    def logs(self) -> str:
        return "".join(server.log() for server in (*self.fronts, *self.runners))

    async def lose_a_runner(self) -> int:
        """Kill -9 a runner that holds something, and what would start it again; says how many tasks it held."""
        async with await Ledger.open(self.ledger_url) as ledger:
            while True:
                for runner in self.runners:
                    if held := await _kill_if_it_holds(ledger, runner):
                        return held
                await asyncio.sleep(0.05)


async def _kill_if_it_holds(ledger: Ledger, runner: Server) -> int:
    pid = runner.pid(_RUNNER)
    assert pid is not None
    # What it holds when it is asked for, it holds when it is killed.
    os.kill(pid, signal.SIGSTOP)
    for lease in await ledger.read_leases():
        if lease.host.split("/")[1] == str(pid) and (held := await ledger.held_by(lease.runner_id)):
            for victim in (runner.child.pid, pid):
                psutil.Process(victim).kill()
            return len(held)
    os.kill(pid, signal.SIGCONT)
    return 0


@asynccontextmanager
async def installation(folder: Path, *, seconds: str, at_a_time: int) -> AsyncIterator[Installation]:
    """An empty one that is ready.

    Args:
        folder: For data and logs.
        seconds: How long a video takes at the sandbox, ``MIN:MAX``.
        at_a_time: Most video tasks that one runner carries.
    """
    with ExitStack() as stack:
        provider = stack.enter_context(sandbox(folder, "--seconds", seconds, "--video", "tiny", "--concurrency", "0"))
        redis_port = stack.enter_context(redis_server(folder))
        postgres = stack.enter_context(postgres_server(binaries.postgres()))
        await _make_databases(postgres)
        prefect = stack.enter_context(_prefect(folder, postgres, redis_port))

        def settings(name: str) -> dict[str, str]:
            (folder / name).mkdir()
            return serve_settings(
                folder / name,
                provider.url,
                KLING_FLOWS_LEDGER_URL=f"postgresql://kling@127.0.0.1:{postgres.port}/ledger",
                PGPASSWORD=PASSWORD,
                KLING_FLOWS_ARCHIVE=str(folder / "archive"),
                KLING_FLOWS_PREFECT_API_URL=prefect.api,
                PREFECT_API_AUTH_STRING=_PREFECT_AUTH,
                KLING_FLOWS_MAX_IN_FLIGHT=str(at_a_time),
            )

        fronts = [
            stack.enter_context(serve(folder / name, settings(name), "--role", "front"))
            for name in ("front-a", "front-b")
        ]
        until(prefect.is_up, "Prefect is up")
        runners = [stack.enter_context(_runner(folder / name, settings(name))) for name in ("runner-a", "runner-b")]
        until(lambda: all("carrying video tasks" in runner.log() for runner in runners), "both runners are ready")
        yield Installation(provider, postgres.url("ledger"), prefect, tuple(fronts), tuple(runners))


async def _make_databases(server: PostgresServer) -> None:
    connection = await asyncpg.connect(server.url("postgres"))
    try:
        for name in ("ledger", "prefect"):
            await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()


@contextmanager
def _prefect(folder: Path, postgres: PostgresServer, redis_port: int) -> Iterator[PrefectServer]:
    port, home, log = free_port(), folder / "prefect", folder / "prefect.log"
    api = f"http://127.0.0.1:{port}/api"
    variables = compose_environment("prefect") | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": postgres.host_url("prefect").replace("://", "+asyncpg://", 1),
        "PREFECT_REDIS_MESSAGING_HOST": "127.0.0.1",
        "PREFECT_REDIS_MESSAGING_PORT": str(redis_port),
        "PREFECT_SERVER_DOCKET_URL": f"redis://127.0.0.1:{redis_port}/1",
        "PREFECT_SERVER_API_AUTH_STRING": _PREFECT_AUTH,
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
    }
    command = (sys.executable, "-m", "kling_flows.runner.prefect_server", "127.0.0.1", str(port))
    with process(*command, environment=clean_environment(**variables), log=log) as child:
        yield PrefectServer(api, child, log)


@contextmanager
def _runner(folder: Path, settings: dict[str, str]) -> Iterator[Server]:
    command = (sys.executable, "-m", "kling_flows.cli", "serve", "--role", "runner")
    with process(*command, environment=clean_environment(**settings), log=folder / "serve.log") as child:
        yield Server(folder, settings, child, address="")
