"""The ways in which a sandbox can be spoken to: dialect, provider and kind of key."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import SecretStr

from kling_flows.sandbox import SandboxServer
from kling_flows.upstream import Account, ApiKeyCredentials, Credentials, Dialect, JwtCredentials, Provider
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_API_KEY, SANDBOX_SECRET_KEY


class Surface(StrEnum):
    """One way; each dialect at each provider that speaks it."""

    LEGACY_JWT = "legacy-jwt"
    LEGACY_KEY = "legacy-key"
    STANDARD = "standard"
    COMETAPI = "cometapi"

    @property
    def provider(self) -> Provider:
        return Provider.COMETAPI if self is Surface.COMETAPI else Provider.KLING

    @property
    def dialect(self) -> Dialect:
        return Dialect.STANDARD if self is Surface.STANDARD else Dialect.LEGACY

    def account(self, server: SandboxServer, credentials: Credentials | None = None, path: str = "") -> Account:
        """The sandbox's account there; ``path`` is put behind the base URL."""
        base_url = server.url + ("/kling" if self is Surface.COMETAPI else "") + path
        return Account.of(self.provider, credentials or self._credentials(), base_url=base_url, dialect=self.dialect)

    def _credentials(self) -> Credentials:
        if self is Surface.LEGACY_JWT:
            return JwtCredentials(SANDBOX_ACCESS_KEY, SecretStr(SANDBOX_SECRET_KEY))
        return ApiKeyCredentials(SecretStr(SANDBOX_API_KEY))


LEGACY: Final = (Surface.LEGACY_JWT, Surface.LEGACY_KEY, Surface.COMETAPI)
KLING: Final = (Surface.LEGACY_JWT, Surface.LEGACY_KEY, Surface.STANDARD)
EVERYWHERE: Final = tuple(Surface)
