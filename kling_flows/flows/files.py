"""Files that a flow reads and writes by URL."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from kling_flows.archive.store import folder_of, open_store
from kling_flows.errors import ConfigurationError
from kling_flows.outbound.bodies import read_body
from kling_flows.outbound.client import guarded_client

#: Longest file that is read, in bytes.
MOST_BYTES: Final = 64 * 1024 * 1024

_SILENCE_SECONDS: Final = 30.0
_WHOLE_SECONDS: Final = 300.0


async def read_file(parameter: str, url: str) -> bytes:
    """The contents of a file.

    Args:
        parameter: Of the flow, for messages.
        url: ``https://`` to a public address; ``s3://``, ``gs://``, ``az://`` with the storage's own variables;
            ``file://`` or a path.

    Raises:
        ConfigurationError: it cannot be read, or is longer than `MOST_BYTES`; the message has no query.
        AddressRefused: the address is not a public one.
    """
    try:
        async with asyncio.timeout(_WHOLE_SECONDS):
            if url.startswith(("http://", "https://")):
                return await _download(parameter, url)
            store, name = _place(url)
            size = (await obstore.head_async(store, name))["size"]
            if size > MOST_BYTES:
                raise _too_long(parameter)
            return bytes(await (await obstore.get_async(store, name)).bytes_async())
    except (BaseError, OSError, ValueError, TimeoutError, httpx.HTTPError) as error:
        raise _unusable(parameter, url, "read", error) from error


async def write_file(parameter: str, url: str, contents: bytes) -> None:
    """Write a whole file, or leave the one that is there.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        async with asyncio.timeout(_WHOLE_SECONDS):
            store, name = _place(url)
            await obstore.put_async(store, name, contents)
    except (BaseError, OSError, ValueError, TimeoutError) as error:
        raise _unusable(parameter, url, "written", error) from error


async def _download(parameter: str, url: str) -> bytes:
    async with guarded_client(timeout=_SILENCE_SECONDS) as client, client.stream("GET", url) as response:
        if response.status_code != HTTPStatus.OK:
            raise ConfigurationError(parameter, f"{_shown(url)} answers with {response.status_code}")
        return await read_body(response, MOST_BYTES)


def _place(url: str) -> tuple[ObjectStore, str]:
    if url.startswith(("http://", "https://")):
        raise ValueError("a file is written to a folder or to object storage, not over http")
    if "://" in url and not url.startswith("file://"):
        folder, _, name = url.rpartition("/")
        if not name or folder.endswith(("/", ":")):
            raise ValueError("it names no file in a bucket, such as s3://bucket/folder/file.csv")
        return open_store(folder), name
    path = Path(folder_of(url)).expanduser().absolute()
    return LocalStore(path.parent, mkdir=True), path.name


def _shown(url: str) -> str:
    # A signed URL's query is a key.
    return url.partition("?")[0]


def _unusable(parameter: str, url: str, what: str, error: Exception) -> ConfigurationError:
    words = (str(error).splitlines() or [""])[0] or type(error).__name__
    return ConfigurationError(parameter, f"{_shown(url)} cannot be {what} ({words.replace(url, _shown(url))})")


def _too_long(parameter: str) -> ConfigurationError:
    return ConfigurationError(parameter, f"it is longer than {MOST_BYTES >> 20} MiB; split it")
