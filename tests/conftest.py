"""What holds for every test."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# In the background of a script or under `nohup` these are ignored, and so they would be by every process that a test
# starts.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)

# A commit passes or fails again as it did before; what nobody has thought of yet is looked for by `make faults`.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("searching", print_blob=True)
settings.load_profile("searching" if os.environ.get("KLING_FLOWS_FULL_FAULTS") else "repeatable")
