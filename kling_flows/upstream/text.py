"""What of a provider's answer may be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

#: Longest excerpt, characters.
EXCERPT_LIMIT: Final = 200
#: Characters that are looked at, so that a hostile page costs no time.
_READ_LIMIT: Final = 4_000
_HIDDEN: Final = "[redacted]"
# An answer can echo the request, and a proxy's error page often does.
_CREDENTIAL: Final = re.compile(r"(?i:bearer)\s+[^\s\"'<>]+|\beyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?|\bsk-[\w-]{8,}")
_UNSHOWN: Final = re.compile(r"<(script|style)\b.*?</\1\s*>|</?[a-z!][^<>]*>", re.IGNORECASE | re.DOTALL)


def hide(text: str, secrets: Iterable[str]) -> str:
    """Return ``text`` without any of ``secrets``."""
    # The longest first: a secret may be part of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _HIDDEN)
    return text


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the start of ``text`` as one line without markup, control characters, secrets and what looks like one."""
    plain = _UNSHOWN.sub(" ", hide(text, secrets)[:_READ_LIMIT])
    line = " ".join("".join(char if char.isprintable() else " " for char in plain).split())
    safe = _CREDENTIAL.sub(_HIDDEN, line)
    return safe if len(safe) <= EXCERPT_LIMIT else f"{safe[: EXCERPT_LIMIT - 1]}…"
