"""Where things are kept on this machine or in object storage: the state folder and the archive."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore

from kling_flows.archive.store import folder_of, open_store, reason_of
from kling_flows.cli.doctor.finding import Finding, ok, problem, warning
from kling_flows.settings import Settings

_STATE: Final = "state folder"
_ARCHIVE: Final = "archive"

#: Bytes that are too few for anything, and that are few.
_TOO_FEW: Final = 100_000_000
_FEW: Final = 1_000_000_000

#: Seconds that a storage gets for writing, reading and deleting a few bytes.
_SECONDS: Final = 15.0

_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO


def check_state_folder(settings: Settings) -> Finding:
    """Whether the folder can be used, by nobody else, and has room."""
    folder = settings.state_dir.absolute()
    remedy = "name another folder in KLING_FLOWS_STATE_DIR, or give this user the right to write there"
    try:
        if not folder.exists():
            return _can_be_made(_STATE, folder, remedy)
        if not folder.is_dir():
            return problem(_STATE, f"{folder} is not a folder", "name a folder in KLING_FLOWS_STATE_DIR")
        status = folder.stat()
        if not os.access(folder, os.W_OK | os.X_OK):
            return problem(_STATE, f"{folder} cannot be written", remedy)
    except OSError as error:
        return problem(_STATE, f"{folder} cannot be used ({error.strerror})", remedy)
    short = _short_of_room(_STATE, folder)
    if short is not None:
        return short
    if status.st_mode & _OTHERS_MAY:
        return warning(
            _STATE, f"other users may look into {folder}, where prompts and keys of tokens are", f"chmod 700 {folder}"
        )
    return ok(_STATE, f"{folder}, {_room(folder)} free")


async def check_archive(settings: Settings) -> Finding:
    """Write, read and delete a few bytes where the videos go."""
    address = settings.archive_address
    shown = address.partition("?")[0]
    remedy = "name a folder or URL in KLING_FLOWS_ARCHIVE that can be written"
    try:
        if "://" in address and not address.startswith("file://"):
            remedy = "correct KLING_FLOWS_ARCHIVE, or the credentials in KLING_FLOWS_ARCHIVE_OPTIONS"
            await _try(open_store(address, settings.archive_config))
            return ok(_ARCHIVE, f"{shown} takes, gives back and deletes")
        folder = folder_of(address)
        if not folder.exists():
            return _can_be_made(_ARCHIVE, folder, remedy)
        short = await asyncio.to_thread(_short_of_room, _ARCHIVE, folder)
        if short is not None:
            return short
        await _try(LocalStore(folder))
    except TimeoutError:
        return problem(_ARCHIVE, f"{shown} does not answer within {_SECONDS:.0f} s", remedy)
    except (BaseError, OSError, ValueError) as error:
        return problem(_ARCHIVE, f"{shown} cannot be used ({reason_of(error)})", remedy)
    return ok(_ARCHIVE, f"{folder} takes, gives back and deletes; {_room(folder)} free")


async def _try(store: ObjectStore) -> None:
    name, content = f".kling-flows-doctor-{secrets.token_hex(4)}", secrets.token_bytes(16)
    async with asyncio.timeout(_SECONDS):
        await obstore.put_async(store, name, content)
        try:
            given = bytes(await (await obstore.get_async(store, name)).bytes_async())
        finally:
            await obstore.delete_async(store, name)
    if given != content:
        raise ValueError("it gives back other bytes than it was given")


def _can_be_made(check: str, folder: Path, remedy: str) -> Finding:
    parent = next(parent for parent in folder.parents if parent.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return problem(check, f"{folder} does not exist and cannot be made in {parent}", remedy)
    return _short_of_room(check, parent) or ok(check, f"{folder} will be made; {_room(parent)} free")


def _short_of_room(check: str, folder: Path) -> Finding | None:
    free = shutil.disk_usage(folder).free
    if free >= _FEW:
        return None
    level = problem if free < _TOO_FEW else warning
    return level(check, f"only {_room(folder)} free at {folder}", "make room, or name a folder on another disk")


def _room(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 1e9:.1f} GB"
