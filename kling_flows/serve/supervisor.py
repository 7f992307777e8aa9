"""Starts the roles in an order that answers first, keeps them running, and drains them in the reverse one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import structlog

from kling_flows.errors import ConfigurationError
from kling_flows.logs import configure_logging
from kling_flows.processes import READY_VARIABLE, stop_with_parent
from kling_flows.serve.address import free_address, shared_address
from kling_flows.serve.children import Child, ChildFailed
from kling_flows.settings import Settings, split_address

if TYPE_CHECKING:
    from kling_flows.archive import VideoArchive

log = structlog.get_logger(__name__)

Role = Literal["all", "front", "runner"]

_LISTEN: Final = "KLING_FLOWS_LISTEN"
_HTTP_LISTEN: Final = "KLING_FLOWS_HTTP_LISTEN"
_UNIX: Final = "unix:"

#: Seconds that the front gets before the others start and take its CPU.
_FRONT_FIRST_SECONDS: Final = 5.0


def run(settings: Settings, role: Role = "all") -> int:
    """Serve until SIGTERM, SIGINT or the end of the parent.

    Args:
        settings: For all roles.
        role: ``front``, ``runner``, or both with a local Prefect server unless the settings name another one.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: something that the settings name cannot be used.
    """
    configure_logging()
    settings.account()
    if not settings.listen.startswith(_UNIX):
        split_address(_LISTEN, settings.listen)
    _prepare(settings.state_dir)
    return asyncio.run(_Supervisor(settings, role).run())


class _Supervisor:
    def __init__(self, settings: Settings, role: Role) -> None:
        self._settings = settings
        self._front: list[Child] = []
        self._behind: list[Child] = []
        self._prefect: list[Child] = []
        environment = dict(settings.environment())
        if role in ("all", "runner") and settings.prefect_api_url is None:
            host, port = free_address("KLING_FLOWS_PREFECT_LISTEN", settings.prefect_listen)
            environment["KLING_FLOWS_PREFECT_LISTEN"] = f"{host}:{port}"
            home = settings.state_dir.absolute() / "prefect"
            self._prefect.append(
                Child(
                    "prefect",
                    "kling_flows.runner.prefect_server",
                    (host, str(port)),
                    environment={"PREFECT_HOME": str(home)},
                    log_file=home / "server.log",
                )
            )
        self._ready = Path(os.environ.get(READY_VARIABLE) or settings.state_dir.absolute() / "front.address")
        self._address: socket.socket | None = None
        if role in ("all", "front"):
            if settings.fronts > 1 and not settings.listen.startswith(_UNIX):
                self._address, environment[_LISTEN] = shared_address(_LISTEN, settings.listen)
            self._front.extend(
                Child(f"front-{number}" if number else "front", "grpc_server", environment=environment | own)
                for number, own in enumerate(_of_each_front(settings, self._ready))
            )
        if role in ("all", "runner"):
            self._behind.append(Child("runner", "kling_flows.runner", environment=environment))

    async def run(self) -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        stop_with_parent(stop)
        keeping: list[asyncio.Task[None]] = []
        stopping = asyncio.create_task(stop.wait())
        try:
            self._ready.unlink(missing_ok=True)
            keeping.extend(_keep(self._front))
            await self._front_ready([stopping, *keeping])
            if not any(task.done() for task in (stopping, *keeping)):
                await self._check_archive()
                keeping.extend(_keep([*self._prefect, *self._behind]))
                await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            log.info("draining")
            await asyncio.gather(*(child.stop() for child in (*self._front, *self._behind)))
            await asyncio.gather(*(child.stop() for child in self._prefect))
            for task in keeping:
                task.cancel()
            if self._address is not None:
                self._address.close()
        outcomes = await asyncio.gather(*keeping, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, ChildFailed):
                return outcome.exit_code
            if isinstance(outcome, Exception):
                raise outcome
        return 0

    async def _check_archive(self) -> None:
        # The runner does so too, but only after Prefect's long start.
        if self._behind:
            archive = await asyncio.to_thread(_open_archive, self._settings)
            await archive.close()

    async def _front_ready(self, ending: Sequence[asyncio.Task[object]]) -> None:
        # On few cores Prefect's start would take the CPU from the front, which answers at once if it comes first.
        deadline = asyncio.get_running_loop().time() + _FRONT_FIRST_SECONDS
        while self._front and asyncio.get_running_loop().time() < deadline:
            if await asyncio.to_thread(self._ready.exists):
                return
            done, _ = await asyncio.wait(ending, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return


def _of_each_front(settings: Settings, ready: Path) -> list[dict[str, str]]:
    """What is set for each front alone; the first one has what a single one has."""
    own = [{READY_VARIABLE: str(ready)}]
    for number in range(1, settings.fronts):
        variables = {READY_VARIABLE: str(ready.with_name(f"{ready.name}.{number}"))}
        if settings.http_listen is not None:
            # Metrics are of one process each, so that they cannot share an address.
            host, port = split_address(_HTTP_LISTEN, settings.http_listen)
            shown = f"[{host}]" if ":" in host else host
            variables[_HTTP_LISTEN] = f"{shown}:{port + number if port else 0}"
        own.append(variables)
    return own


def _open_archive(settings: Settings) -> VideoArchive:
    # On demand: the front answers sooner without it.
    from kling_flows.archive import VideoArchive

    return VideoArchive.open(settings.archive_address, config=settings.archive_config)


def _keep(children: Sequence[Child]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(child.keep_running(), name=child.name) for child in children]


def _prepare(state_dir: Path) -> None:
    try:
        state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigurationError(
            "KLING_FLOWS_STATE_DIR", f"{state_dir} cannot be used ({error}); name a folder that can be written"
        ) from error
