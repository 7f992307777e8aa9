"""Result URLs that expire, as those of a CDN do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Final

#: Where result files are served.
VIDEOS_PATH: Final = "/sandbox/videos"


class UrlSigner:
    """Signs and checks result URLs with a key that dies with the server.

    Args:
        lifetime: Seconds until a URL expires.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime_ms = round(lifetime * 1000)
        self._key = secrets.token_bytes(32)

    def path(self, name: str, *, expired: bool = False) -> str:
        """Path and query of a file.

        Args:
            name: File name without its ending.
            expired: Make a URL that has expired already.
        """
        expires = _now_ms() + (-1 if expired else self._lifetime_ms)
        return f"{VIDEOS_PATH}/{name}.mp4?expires={expires}&sig={self._signature(name, str(expires))}"

    def valid(self, name: str, expires: str, signature: str) -> bool:
        """Whether a URL's query is ours and has not expired; ``expires`` is in Unix milliseconds."""
        return hmac.compare_digest(self._signature(name, expires).encode(), signature.encode()) and _now_ms() < int(
            expires
        )

    def _signature(self, name: str, expires: str) -> str:
        return hmac.digest(self._key, f"{name}:{expires}".encode(), hashlib.sha256).hex()[:32]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
