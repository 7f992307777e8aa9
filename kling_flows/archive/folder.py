"""What a plain folder needs and object storage does by itself: durable publishing, and no litter after a crash."""

from __future__ import annotations

import os
from pathlib import Path


def make_durable(file: Path) -> None:
    """Return only when the file and its name survive the loss of power.

    Raises:
        OSError: the disk does not take them.
    """
    for path in (file, file.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(file: Path) -> None:
    """Remove what a process that was killed while it wrote ``file`` has left beside it.

    obstore writes ``<name>#<number>`` and renames; the caller is the only one who writes this file.
    """
    for leftover in file.parent.glob(f"{file.name}#*"):
        leftover.unlink(missing_ok=True)
