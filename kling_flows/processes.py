"""Children that do not outlive their parent, even one that was killed."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Final

#: Number of the file descriptor that ends when the parent does.
PARENT_VARIABLE: Final = "KLING_FLOWS_PARENT_FD"

#: A file into which the front writes its address once it serves.
READY_VARIABLE: Final = "KLING_FLOWS_READY_FILE"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed: it takes a quarter off the CPU of a message."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def watch_parent(on_end: Callable[[], None]) -> None:
    """Call ``on_end``, on a thread, when the parent has ended; does nothing if there is none to watch."""
    number = os.environ.get(PARENT_VARIABLE)
    if number is None:
        return

    def wait() -> None:
        # The parent never writes: a read returns when the last other end is closed, which the kernel does for the dead.
        os.read(int(number), 1)
        on_end()

    threading.Thread(target=wait, name="parent", daemon=True).start()
