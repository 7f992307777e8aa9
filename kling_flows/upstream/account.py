"""Which account a call is made with."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from kling_flows.errors import ConfigurationError
from kling_flows.upstream.auth import Credentials, JwtCredentials
from kling_flows.upstream.capabilities import require_dialect
from kling_flows.upstream.constants import DEFAULT_BASE_URLS, REGIONS, Dialect, Provider


def account_name(provider: Provider, credentials: Credentials) -> str:
    """Return a stable name that is safe to show, for example ``kling:ab12cd34``.

    It is made of the access key or the API key, so another key makes another name: an account whose API key is replaced
    keeps its name only if it was given one of its own.
    """
    return f"{provider.value}:{credentials.fingerprint}"


def base_url_of(provider: Provider, region: str | None) -> str:
    """Return the base URL of a provider, in a region of it if it has any (fact sheet 1.1).

    Args:
        provider: Who is called.
        region: A key of `REGIONS`, for Kling only; ``None``: the provider's default. Keys belong to one region.

    Raises:
        ConfigurationError: There is no such region, or the provider has none.
    """
    if region is None:
        return DEFAULT_BASE_URLS[provider]
    if provider is not Provider.KLING:
        raise ConfigurationError("region", f"only kling has regions, {provider.value} has none; leave it out")
    if region not in REGIONS:
        raise ConfigurationError("region", f"there is no region {region!r}; the regions are {', '.join(REGIONS)}")
    return REGIONS[region]


@dataclass(frozen=True, slots=True)
class Account:
    """One set of credentials at one provider in one region.

    Args:
        provider: Who is called.
        base_url: http(s) URL that the dialect's paths are put behind; with CometAPI it ends in ``/kling``.
        credentials: Whose account it is.
        name: Stable and safe to show; see `account_name`.
        dialect: Generation of the provider's API that is spoken. It does not change whose account it is.

    Raises:
        ConfigurationError: ``base_url`` cannot be used, ``name`` is empty, or provider or credentials do not go with
            the dialect.
    """

    provider: Provider
    base_url: str
    credentials: Credentials
    name: str
    dialect: Dialect = Dialect.LEGACY

    def __post_init__(self) -> None:
        _check_base_url(self.base_url)
        if not self.name:
            raise ConfigurationError("account", "has no name")
        require_dialect(self.provider, self.dialect)
        if self.dialect is Dialect.STANDARD and isinstance(self.credentials, JwtCredentials):
            raise ConfigurationError(
                "dialect",
                "the standard dialect takes an API key only; create one in the provider's console, "
                "or use the legacy dialect with the access key and secret key",
            )

    @classmethod
    def of(
        cls,
        provider: Provider,
        credentials: Credentials,
        *,
        base_url: str | None = None,
        dialect: Dialect = Dialect.LEGACY,
    ) -> Account:
        """Return the account at the provider's default base URL, or another one, under its derived name."""
        return cls(
            provider=provider,
            base_url=base_url or DEFAULT_BASE_URLS[provider],
            credentials=credentials,
            name=account_name(provider, credentials),
            dialect=dialect,
        )


def _check_base_url(base_url: str) -> None:
    if not base_url.isprintable() or " " in base_url:
        raise ConfigurationError("base_url", "holds a space or a control character")
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
        parts = None
    if parts is None or not usable:
        raise ConfigurationError("base_url", "is not an http(s) URL with a host, such as https://host/prefix")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError("base_url", "holds a user name or password; credentials are given apart from it")
    if parts.query or parts.fragment:
        raise ConfigurationError("base_url", "ends in a query or fragment; only scheme, host, port and path are used")
