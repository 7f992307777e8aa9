"""What the blocks look like in Prefect's catalogue."""

from __future__ import annotations

from typing import Final

from pydantic import HttpUrl

_REPOSITORY: Final = "https://github.com/kling-flows/kling-flows"

LOGO: Final = HttpUrl("https://raw.githubusercontent.com/kling-flows/kling-flows/main/docs/logo.svg")

DOCUMENTATION: Final = HttpUrl(f"{_REPOSITORY}/blob/main/docs/prefect.md#blocks")
