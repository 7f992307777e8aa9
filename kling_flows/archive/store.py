"""Where the videos are kept, each with a JSON manifest beside it.

``<archive>/<namespace>/<yyyy>/<mm>/<task id>.mp4``; the namespace keeps ledgers apart that share one archive.
"""

from __future__ import annotations

import asyncio
import errno
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import unquote, urlsplit

import httpx
import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from kling_flows.archive.download import Download, download_client
from kling_flows.archive.folder import make_durable, remove_leftovers
from kling_flows.errors import ArchiveError, ConfigurationError
from kling_flows.outbound import PUBLIC_ONLY, AddressPolicy

if TYPE_CHECKING:
    from obstore import ReadableFile

_MANIFEST_SCHEMA: Final = 1

#: Seconds that a stopped download gets to let go of the storage.
_ABORT_SECONDS: Final = 35.0

#: What may be a part of a path: no separator, no leading dot, nothing that a file system or a store reads differently.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")

#: Disk, file size and quota; the storage tells them in its messages.
_NO_ROOM_NUMBERS: Final = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
_NO_ROOM: Final = tuple(f"os error {number})" for number in _NO_ROOM_NUMBERS)

#: How S3, GCS and Azure say in the body of their answer why they refuse.
_CODE: Final = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")


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
        policy: Where videos may be fetched from, unless a download says otherwise.
        namespace: Whose videos these are, for example a ledger's id; empty if the archive has one owner.

    Raises:
        ValueError: the namespace is not a name.
    """

    def __init__(
        self,
        store: ObjectStore,
        base_uri: str,
        folder: Path | None = None,
        *,
        policy: AddressPolicy = PUBLIC_ONLY,
        namespace: str = "",
    ) -> None:
        self._store = store
        self._folder = folder
        self._base_uri = base_uri.rstrip("/")
        self._prefix = f"{_checked(namespace)}/" if namespace else ""
        self._policy = policy
        self._clients: dict[AddressPolicy, httpx.AsyncClient] = {policy: download_client(policy)}

    @classmethod
    def open(
        cls,
        address: str,
        *,
        policy: AddressPolicy = PUBLIC_ONLY,
        namespace: str = "",
        config: Mapping[str, str] | None = None,
    ) -> Self:
        """The archive at a folder or a URL that obstore knows (``s3://``, ``gs://``, ``az://``, ``file://``).

        Args:
            address: A folder as it is, or a URL; a ``file://`` URL is percent-decoded.
            policy: Where videos may be fetched from, unless a download says otherwise; public addresses over https by
                default.
            namespace: See the class.
            config: Options of object storage by obstore's names, for example credentials; a folder has none.

        Raises:
            ConfigurationError: the address is malformed or nothing can be written there.
            ValueError: the namespace is not a name.
        """
        if namespace:
            _checked(namespace)
        try:
            if "://" in address and not address.startswith("file://"):
                return cls(open_store(address, config), address, policy=policy, namespace=namespace)
            folder = folder_of(address)
            folder.mkdir(parents=True, exist_ok=True)
            uri = folder.absolute().as_uri()
            archive = cls(LocalStore(folder, mkdir=True), uri, folder, policy=policy, namespace=namespace)
            archive._probe()
        except (BaseError, OSError, ValueError) as error:
            raise ConfigurationError(
                "KLING_FLOWS_ARCHIVE",
                f"{address} cannot be written ({str(error).splitlines()[0]}); name a folder or URL that can",
            ) from error
        return archive

    async def close(self) -> None:
        """Close the connections to the sources."""
        for client in self._clients.values():
            await client.aclose()

    def download(self, url: str, policy: AddressPolicy | None = None) -> Download:
        """A download of ``url`` for :meth:`store`.

        Args:
            url: As the provider gave it.
            policy: Where it may lead: ``policy_for`` the base URL of the task's account; the archive's own by default.
        """
        policy = policy or self._policy
        if policy not in self._clients:
            # One for each provider: there are a few of them at most.
            self._clients[policy] = download_client(policy)
        return Download(self._clients[policy], url)

    async def store(self, task_id: str, created: datetime, download: Download, facts: Mapping[str, Any]) -> StoredVideo:
        """Copy a download into the archive and publish it with its manifest.

        Args:
            task_id: Names the file; one of ours.
            created: The task's create time, which names the folder.
            download: Not yet started.
            facts: What the manifest says beside the file's own facts.

        Raises:
            SourceExpired: the source refuses the address.
            ArchiveError: the bytes are not the whole video, or the storage refuses them.
            ValueError: the task's id is not a name.
        """
        path = self._path(task_id, created)
        if self._folder is not None:
            await asyncio.to_thread(remove_leftovers, self._folder / f"{path}.mp4")
        feed = _Feed(download)
        put = asyncio.ensure_future(
            obstore.put_async(self._store, f"{path}.mp4", feed, use_multipart=True, max_concurrency=2)
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
            raise _refusal(f"{path}.mp4", error) from error
        finally:
            await feed.close()
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
            raise _refusal(f"{path}.json", error) from error
        await self._make_durable(path)
        return stored

    async def _make_durable(self, path: str) -> None:
        if self._folder is None:
            return
        try:
            await asyncio.to_thread(make_durable, self._folder / f"{path}.mp4", self._folder / f"{path}.json")
        except OSError as error:
            raise _refusal(f"{path}.mp4", error) from error

    async def find(self, task_id: str, created: datetime, facts: Mapping[str, Any]) -> StoredVideo | None:
        """What was published before a crash: a manifest with these facts, and a file of the length that it says.

        A manifest that says otherwise is of another ledger's task with the same id.
        """
        path = self._path(task_id, created)
        try:
            manifest = json.loads(bytes(await (await obstore.get_async(self._store, f"{path}.json")).bytes_async()))
            stored = StoredVideo(**manifest["file"])
            if any(manifest[name] != value for name, value in facts.items()):
                return None
            head = await obstore.head_async(self._store, f"{path}.mp4")
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return None
        except (BaseError, OSError) as error:
            raise ArchiveError(f"the archive cannot be read ({reason_of(error)}); it is tried again") from error
        return stored if head["size"] == stored.size_bytes else None

    def open_file(self, uri: str) -> ReadableFile:
        """A file of this archive by its address, opened for reading; blocks, and so does reading.

        Raises:
            ArchiveError: the address lies elsewhere, or nothing can be read there.
        """
        path = uri.removeprefix(f"{self._base_uri}/")
        try:
            if path != uri:
                return obstore.open_reader(self._store, path)
        except (BaseError, OSError) as error:
            raise ArchiveError(f"the archive cannot be read at {path} ({type(error).__name__})") from error
        raise ArchiveError(f"{uri} lies outside of this archive")

    async def remove(self, task_id: str, created: datetime) -> None:
        """Delete a task's video and its manifest; what is gone already stays so.

        Raises:
            ArchiveError: the storage refuses.
        """
        path = self._path(task_id, created)
        # The manifest last: while it is there, somebody can tell what is left.
        for name in (f"{path}.mp4", f"{path}.json"):
            try:
                await obstore.delete_async(self._store, name)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise _refusal(name, error) from error

    def _probe(self) -> None:
        name = f".kling-flows-{secrets.token_hex(4)}"
        obstore.put(self._store, name, b"")
        obstore.delete(self._store, name)

    def _path(self, task_id: str, created: datetime) -> str:
        return f"{self._prefix}{created.year:04d}/{created.month:02d}/{_checked(task_id)}"


class _Feed:
    """A download as the storage reads it, which can be closed while the storage still waits for the next chunk.

    A storage that fails forgets the download, which would keep its connection until somebody collects it.
    """

    def __init__(self, download: Download) -> None:
        self._download = download
        self._chunks = download.chunks()
        self._reading = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        async with self._reading:
            return await anext(self._chunks)

    async def close(self) -> None:
        self._download.abort()
        # A source that lets go even later is closed with its client.
        with suppress(TimeoutError):
            async with asyncio.timeout(_ABORT_SECONDS), self._reading:
                await self._chunks.aclose()


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} does not name a video or a ledger: letters, digits, - and _ only")
    return name


def open_store(address: str, config: Mapping[str, str] | None = None) -> ObjectStore:
    """Object storage by its URL, with options by obstore's names.

    Raises:
        BaseError, ValueError: the URL or an option is not one that obstore knows.
    """
    try:
        return from_url(address, config=cast("Any", dict(config))) if config else from_url(address)
    except BaseException as error:
        # The driver panics at options of connections, such as aws_allow_http, which passes by `except Exception`.
        if type(error).__name__ != "PanicException":
            raise
        names = ", ".join(sorted(config or ()))
        raise ValueError(f"an option is not one that the storage takes here, of these: {names}") from None


def folder_of(address: str) -> Path:
    """The folder that an archive's address names, as it is or as a ``file://`` URL.

    Raises:
        ValueError: the URL names none on this machine.
    """
    if not address.startswith("file://"):
        return Path(address)
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ValueError("a file:// URL has three slashes before its folder: file:///var/videos")
    if parts.query or parts.fragment:
        raise ValueError("in a file:// URL, ? and # of a name are written %3F and %23")
    if not parts.path:
        raise ValueError("the file:// URL names no folder")
    return Path(unquote(parts.path))


def reason_of(error: Exception) -> str:
    """Why a storage refuses, in one line; what it says beyond that may repeat what it was asked."""
    code = _CODE.search(str(error))
    if code is not None:
        return code[1]
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _refusal(name: str, error: Exception) -> ArchiveError:
    reason = reason_of(error)
    if getattr(error, "errno", None) in _NO_ROOM_NUMBERS or any(sign in str(error) for sign in _NO_ROOM):
        return ArchiveError(
            f"the archive is full: there is no room for {name} ({reason}); make room, it is tried again"
        )
    if isinstance(error, (PermissionDeniedError, UnauthenticatedError, FileNotFoundError)):
        return ArchiveError(
            f"the archive refuses {name} ({reason}); correct KLING_FLOWS_ARCHIVE or its credentials, "
            "which `kling-flows doctor` tries; it is tried again"
        )
    return ArchiveError(f"the archive refuses {name} ({reason}); it is tried again")
