"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# A commit passes or fails again as it did before; what nobody has thought of yet is looked for by `make faults`.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("searching", print_blob=True)
settings.load_profile("searching" if os.environ.get("KLING_FLOWS_FULL_FAULTS") else "repeatable")
