"""Where the videos are kept: ``<archive>/<yyyy>/<mm>/<task id>.mp4`` with a JSON manifest beside each."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import httpx
import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from kling_flows.archive.download import Download, download_client
from kling_flows.archive.folder import make_durable, remove_leftovers
from kling_flows.errors import ArchiveError, ConfigurationError

_MANIFEST_SCHEMA: Final = 1

#: Seconds that a stopped download gets to let go of the storage.
_ABORT_SECONDS: Final = 35.0


@dataclass(frozen=True, slots=True)
class StoredVideo:
    """A video in the archive; ``sha256`` in hex."""

    uri: str
    manifest_uri: str
    size_bytes: int
    sha256: str
    media_type: str


class VideoArchive:
    """Publishes whole videos only: a reader sees the file complete and checked, or not at all.

    Args:
        store: Any of obstore's; publishes atomically.
        base_uri: What the addresses of its objects begin with.
        folder: Where the objects are files, if they are.
    """

    def __init__(self, store: ObjectStore, base_uri: str, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder
        self._base_uri = base_uri.rstrip("/")
        self._client: httpx.AsyncClient = download_client()

    @classmethod
    def open(cls, address: str) -> Self:
        """The archive at a folder or a URL that obstore knows (``s3://``, ``gs://``, ``az://``, ``file://``).

        Raises:
            ConfigurationError: the address is malformed or nothing can be written there.
        """
        try:
            if "://" in address and not address.startswith("file://"):
                return cls(from_url(address), address)
            folder = Path(address.removeprefix("file://"))
            folder.mkdir(parents=True, exist_ok=True)
            archive = cls(LocalStore(folder, mkdir=True), folder.absolute().as_uri(), folder)
            archive._probe()
        except (BaseError, OSError, ValueError) as error:
            raise ConfigurationError(
                "KLING_FLOWS_ARCHIVE",
                f"{address} cannot be written ({str(error).splitlines()[0]}); name a folder or URL that can",
            ) from error
        return archive

    async def close(self) -> None:
        """Close the connections to the sources."""
        await self._client.aclose()

    def download(self, url: str) -> Download:
        """A download of ``url`` for :meth:`store`."""
        return Download(self._client, url)

    async def store(self, task_id: str, created: datetime, download: Download, facts: Mapping[str, Any]) -> StoredVideo:
        """Copy a download into the archive and publish it with its manifest.

        Args:
            task_id: Names the file; the caller has checked that it is one of ours.
            created: The task's create time, which names the folder.
            download: Not yet started.
            facts: What the manifest says beside the file's own facts.

        Raises:
            SourceExpired: the source refuses the address.
            ArchiveError: the bytes are not the whole video, or the storage refuses them.
        """
        path = _path(task_id, created)
        if self._folder is not None:
            await asyncio.to_thread(remove_leftovers, self._folder / f"{path}.mp4")
        put = asyncio.ensure_future(
            obstore.put_async(self._store, f"{path}.mp4", download.chunks(), use_multipart=True, max_concurrency=2)
        )
        try:
            await asyncio.shield(put)
        except asyncio.CancelledError:
            # The storage reads from the generator on a thread of its own: it has to let go before the loop may end.
            download.abort()
            await asyncio.wait({put}, timeout=_ABORT_SECONDS)
            if put.done() and not put.cancelled():
                # Looked at, so that nobody complains of an error that nobody has looked at.
                put.exception()
            raise
        except (BaseError, OSError) as error:
            raise ArchiveError(
                f"the archive refuses {path}.mp4 ({str(error).splitlines()[0]}); it is tried again",
            ) from error
        stored = StoredVideo(
            uri=f"{self._base_uri}/{path}.mp4",
            manifest_uri=f"{self._base_uri}/{path}.json",
            size_bytes=download.size_bytes,
            sha256=download.sha256,
            media_type=download.media_type,
        )
        manifest = {"schema": _MANIFEST_SCHEMA, "file": asdict(stored), **facts}
        try:
            await obstore.put_async(
                self._store, f"{path}.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode()
            )
        except (BaseError, OSError) as error:
            raise ArchiveError(f"the archive refuses {path}.json ({error}); it is tried again") from error
        await self._make_durable(path)
        return stored

    async def _make_durable(self, path: str) -> None:
        if self._folder is None:
            return
        try:
            for name in (f"{path}.mp4", f"{path}.json"):
                await asyncio.to_thread(make_durable, self._folder / name)
        except OSError as error:
            raise ArchiveError(f"the disk does not take {path}.mp4 ({error}); it is tried again") from error

    async def find(self, task_id: str, created: datetime, facts: Mapping[str, Any]) -> StoredVideo | None:
        """What was published before a crash: a manifest with these facts, and a file of the length that it says.

        A manifest that says otherwise is of another ledger's task with the same id.
        """
        path = _path(task_id, created)
        try:
            manifest = json.loads(bytes(await (await obstore.get_async(self._store, f"{path}.json")).bytes_async()))
            stored = StoredVideo(**manifest["file"])
            if any(manifest[name] != value for name, value in facts.items()):
                return None
            head = await obstore.head_async(self._store, f"{path}.mp4")
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None
        except (BaseError, OSError) as error:
            raise ArchiveError(f"the archive cannot be read ({error}); it is tried again") from error
        return stored if head["size"] == stored.size_bytes else None

    def _probe(self) -> None:
        name = f".kling-flows-{secrets.token_hex(4)}"
        obstore.put(self._store, name, b"")
        obstore.delete(self._store, name)


def _path(task_id: str, created: datetime) -> str:
    return f"{created:%Y}/{created:%m}/{task_id}"
