"""Reading files of the archive, for callers that have no credentials of the storage."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Final, Self

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from kling_flows.archive.store import folder_of, open_store
from kling_flows.errors import ArchiveError, VideoNotArchived

#: Bytes that one read takes from the storage; all that a reader holds.
BLOCK_BYTES: Final = 1024 * 1024

#: Seconds that one of these reads may take.
READ_SECONDS: Final = 60.0

#: What a part of a path in the archive can be; never `..`, never percent-encoded.
_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,255}")


class ArchiveReader:
    """Reads by the addresses that are in the ledger, and only what lies inside one archive.

    Args:
        store: Any of obstore's.
        base_uri: What the addresses of its objects begin with.
    """

    def __init__(self, store: ObjectStore, base_uri: str) -> None:
        self._store = store
        self._base_uri = base_uri.rstrip("/")

    @classmethod
    def open(cls, address: str, config: Mapping[str, str] | None = None) -> Self:
        """The archive at an address, with options, as `VideoArchive.open` takes them; creates and writes nothing.

        Raises:
            ArchiveError: the address is malformed, or there is no such folder here.
        """
        try:
            if "://" in address and not address.startswith("file://"):
                return cls(open_store(address, config), address)
            folder = folder_of(address)
            return cls(LocalStore(folder), folder.absolute().as_uri())
        except (BaseError, OSError, ValueError) as error:
            # The address itself is for the log: it is of no use to callers.
            raise ArchiveError(
                "this server cannot open its archive; KLING_FLOWS_ARCHIVE must name the folder or URL that the runners "
                "store videos in"
            ) from error

    async def read(self, uri: str, offset: int, size: int) -> AsyncGenerator[bytes]:
        """The bytes from ``offset`` to ``size``, in pieces of at most `BLOCK_BYTES`, each read when it is asked for.

        Args:
            uri: As the ledger has it.
            offset: Where to begin, in bytes.
            size: Length of the file, in bytes.

        Raises:
            VideoNotArchived: the address lies outside of this archive, or nothing is there any more.
            ArchiveError: the storage cannot be read, or has less than ``size`` bytes.
        """
        path = self._path(uri)
        while offset < size:
            length = min(BLOCK_BYTES, size - offset)
            block = await self._read_block(path, offset, length)
            offset += length
            yield block

    async def _read_block(self, path: str, offset: int, length: int) -> bytes:
        try:
            async with asyncio.timeout(READ_SECONDS):
                block = bytes(await obstore.get_range_async(self._store, path, start=offset, length=length))
        except FileNotFoundError:
            raise VideoNotArchived(
                f"{path} is no longer in the archive; somebody has removed it", metadata={"file": path}
            ) from None
        except TimeoutError:
            raise ArchiveError(f"the archive took more than {READ_SECONDS:g} s to read a part of {path}") from None
        except (BaseError, OSError) as error:
            raise ArchiveError(f"the archive cannot be read at {path} ({type(error).__name__})") from error
        if len(block) != length:
            raise ArchiveError(f"{path} is shorter in the archive than when it was stored there")
        return block

    def _path(self, uri: str) -> str:
        base, path = f"{self._base_uri}/", uri.removeprefix(f"{self._base_uri}/")
        if not uri.startswith(base) or not all(_PART.fullmatch(part) for part in path.split("/")):
            raise VideoNotArchived(
                "the file lies outside of the archive that this server is set up with (KLING_FLOWS_ARCHIVE); its uri "
                "says where",
                metadata={"uri": uri},
            )
        return path
