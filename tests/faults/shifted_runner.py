"""A runner whose wall clock is set by a file: ``KLING_FLOWS_TEST_CLOCK`` names it, and it holds seconds.

All of our code sees the shifted time. Nothing monotonic is shifted, and neither are other processes.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Final

#: Names the file.
CLOCK: Final = "KLING_FLOWS_TEST_CLOCK"

_true_time = time.time


def _shifted_time() -> float:
    return _true_time() + float(Path(os.environ[CLOCK]).read_text())


class _OfDatetimes(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, datetime)


class _Datetime(datetime, metaclass=_OfDatetimes):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime.fromtimestamp(_shifted_time(), tz)


def _main() -> int:
    # Some keep the function itself, so that it has to be another one before they are imported.
    time.time = _shifted_time
    from kling_flows.runner import runner
    from kling_flows.runner.__main__ import main

    assert runner
    for name, module in list(sys.modules.items()):
        # Models were made with the true class, whose values these are.
        if name.startswith("kling_flows.") and vars(module).get("datetime") is datetime:
            vars(module)["datetime"] = _Datetime
    return main()


if __name__ == "__main__":
    sys.exit(_main())
