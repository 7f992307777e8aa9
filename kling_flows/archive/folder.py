"""What a plain folder needs and object storage does by itself: durable publishing, and no litter after a crash."""

from __future__ import annotations

import os
from itertools import count
from pathlib import Path


def make_durable(*files: Path) -> None:
    """Return only when the files of one folder and their names survive the loss of power.

    Raises:
        OSError: the disk does not take them.
    """
    for path in (*files, files[0].parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(file: Path) -> None:
    """Remove what a process that was killed while it wrote ``file`` has left beside it.

    obstore writes ``<name>#<number>`` and renames, with the first number from 1 that is free; the caller is the only
    one who writes this file. They are asked for by name, for the folder may hold a hundred thousand others.
    """
    for number in count(1):
        try:
            os.unlink(f"{file}#{number}")
        except OSError:
            # There is none, or what stands in the way will be said by the write that meets it too.
            return
