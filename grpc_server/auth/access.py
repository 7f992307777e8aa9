"""The authenticator that the settings ask for, kept up to date."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Protocol

import structlog

from grpc_server.auth.access_file import AccessList
from grpc_server.auth.authenticator import Authenticator, ByAccessList, Everybody
from kling_flows.errors import ConfigurationError
from kling_flows.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds between two looks at whether the file has changed.
LOOK_SECONDS: Final = 1.0

_Stamp = tuple[int, int, int]


class Access(Protocol):
    """Who may call, as long as the front runs."""

    @property
    def authenticator(self) -> Authenticator: ...
    def start(self) -> None: ...
    async def close(self) -> None: ...


def access_of(settings: Settings) -> Access:
    """Everybody as ``settings.tenant``, or those whom the access file names.

    Raises:
        ConfigurationError: the file cannot be used.
    """
    return Open(settings.tenant) if settings.access_file is None else Listed(settings.access_file)


class Open:
    """Whoever reaches the server may call."""

    def __init__(self, tenant: str) -> None:
        self.authenticator: Authenticator = Everybody(tenant)

    def start(self) -> None:
        """Nothing changes here."""

    async def close(self) -> None:
        """Nothing is open here."""


class Listed:
    """Those of a file may call; the file is read anew when it changes.

    Raises:
        ConfigurationError: the file cannot be used. Once it could, a mistake in it changes nothing until it is mended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._by_list = ByAccessList(AccessList.read(path))
        self._looking: asyncio.Task[None] | None = None

    @property
    def authenticator(self) -> Authenticator:
        """Knows the callers of the file as it was last read."""
        return self._by_list

    def start(self) -> None:
        """Look at the file from now on."""
        self._looking = asyncio.create_task(self._look_forever(), name="access-file")

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self._by_list.access = await asyncio.to_thread(AccessList.read, self._path)
            except ConfigurationError as error:
                log.error("the access file cannot be used; the former one stays", error=error.message)
            else:
                log.info("the access file was read anew")


def _stamp(path: Path) -> _Stamp | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
