"""Addresses of ledgers, which may hold a password."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from kling_flows.errors import ConfigurationError

#: What names the ledger.
ADDRESS_SETTING: Final = "KLING_FLOWS_LEDGER_URL"


def not_understood(shown_url: str) -> ConfigurationError:
    """For an address that is none, of which nothing else may be repeated."""
    return ConfigurationError(
        ADDRESS_SETTING,
        f"{shown_url} is not an address that the driver understands; percent-encode special characters in the "
        "password, or leave it out and set PGPASSWORD",
    )


def shown(url: str) -> str:
    """An address as it may be printed: without a password and without options, which may hold one."""
    if url.startswith("sqlite:"):
        return url
    if is_torn(url):
        return "postgresql://…"
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return f"postgresql://{name}{'@' if name else ''}{place}{parts.path}"


def is_torn(url: str) -> bool:
    """Whether a character of the password ends what it stands in: anything may be part of the password then."""
    parts = urlsplit(url)
    return "@" not in parts.netloc and "@" in f"{parts.path}{parts.query}{parts.fragment}"
