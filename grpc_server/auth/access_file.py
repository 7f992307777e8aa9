"""The file that says who may call: hashes of tokens, and names in client certificates.

    [[token]]
    name = "ads-backend"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    tenant = "ads"
    scopes = ["read", "write"]
    expires = 2027-01-01T00:00:00Z

    [[certificate]]
    subject = "spiffe://example.org/ads-frontend"
    tenant = "ads"
    scopes = ["read"]

Tokens are random (``kling-flows token`` makes them), so that a plain hash cannot be reversed by guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from grpc_server.auth.identity import Identity, Scope
from kling_flows.errors import ConfigurationError

SETTING: Final = "KLING_FLOWS_ACCESS_FILE"

_Tenant = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
_Scopes = Annotated[frozenset[Scope], Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    tenant: _Tenant
    scopes: _Scopes
    expires: AwareDatetime | None = None

    def identity(self, name: str, now: datetime) -> Identity | None:
        """The caller, unless its time is over."""
        if self.expires is not None and self.expires <= now:
            return None
        return Identity(name, self.tenant, self.scopes)


class TokenEntry(_Entry):
    """A bearer token; ``sha256`` of its UTF-8 bytes in hex."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class CertificateEntry(_Entry):
    """A client certificate; ``subject`` is one of its subject alternative names, or its common name."""

    subject: Annotated[str, Field(min_length=1, max_length=255)]


class AccessList(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token: tuple[TokenEntry, ...] = ()
    certificate: tuple[CertificateEntry, ...] = ()

    @classmethod
    def read(cls, path: Path) -> AccessList:
        """Read the file.

        Raises:
            ConfigurationError: it cannot be read, or says something that has no meaning; hashes are not shown.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ConfigurationError(SETTING, f"{path} cannot be read as TOML: {error}") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ConfigurationError(SETTING, f"{path}, {where}: {first['msg']}") from None

    def by_token(self, token: str) -> Identity | None:
        """Whose token it is. Every entry is compared, each in constant time."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found: TokenEntry | None = None
        for entry in self.token:
            if hmac.compare_digest(entry.sha256, digest):
                found = entry
        return None if found is None else found.identity(found.name, datetime.now(UTC))

    def by_subjects(self, subjects: frozenset[str]) -> Identity | None:
        """Whose certificate it is, by any of its names; the first entry of the file decides."""
        for entry in self.certificate:
            if entry.subject in subjects:
                return entry.identity(entry.subject, datetime.now(UTC))
        return None
