"""Credentials: how a request proves whose account it belongs to (fact sheet 1.2, 1.3)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Final, Protocol

from pydantic import SecretStr

from kling_flows.errors import ConfigurationError
from kling_flows.upstream.constants import JWT_LIFETIME, JWT_SKEW

#: Seconds before ``exp`` at which a token is replaced, so that no request travels with one that ends on the way.
RENEW_BEFORE_END: Final = 300


class Credentials(Protocol):
    """One account's credentials. Text forms never show a secret."""

    @property
    def fingerprint(self) -> str:
        """8 hex digits that name the key without telling it."""
        ...

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never appear in a message."""
        ...

    def authorization(self, now: float) -> str:
        """Return the value of the ``Authorization`` header at ``now`` (Unix time, seconds)."""
        ...

    def invalidate(self) -> bool:
        """Forget what was derived from the key; return whether the next header can differ from the last."""
        ...


@dataclass(slots=True)
class _Token:
    text: str = ""
    signed_at: float = 0.0
    renew_at: float = 0.0


@dataclass(frozen=True, slots=True, repr=False)
class JwtCredentials:
    """Access key and secret key, sent as a JWT that is signed here and replaced before it ends.

    Args:
        access_key: Public half; named in the token.
        secret_key: Signs the token.

    Raises:
        ConfigurationError: A key is empty or holds a character that no key has.
    """

    access_key: str
    secret_key: SecretStr
    _token: _Token = field(default_factory=_Token, init=False, compare=False)

    def __post_init__(self) -> None:
        _check_key("access_key", self.access_key)
        _check_key("secret_key", self.secret_key.get_secret_value())

    def __repr__(self) -> str:
        return f"JwtCredentials(fingerprint={self.fingerprint!r})"

    @property
    def fingerprint(self) -> str:
        """8 hex digits made of the access key; a new secret key for it does not change them."""
        return _fingerprint("access-key", self.access_key)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Both keys and the token."""
        known = (self.secret_key.get_secret_value(), self.access_key, self._token.text)
        return tuple(secret for secret in known if secret)

    def authorization(self, now: float) -> str:
        """Return the value of the ``Authorization`` header at ``now`` (Unix time, seconds)."""
        token = self._token
        # A clock that was set back would otherwise send a token whose `nbf` is in the future.
        if not token.signed_at <= now < token.renew_at:
            token.text = self._sign(int(now))
            token.signed_at = now
            token.renew_at = now + JWT_LIFETIME - RENEW_BEFORE_END
        return f"Bearer {token.text}"

    def invalidate(self) -> bool:
        """Forget the token, so that the next header carries a new one."""
        self._token.renew_at = 0.0
        return True

    def _sign(self, now: int) -> str:
        claims = {"iss": self.access_key, "exp": now + JWT_LIFETIME, "nbf": now - JWT_SKEW}
        payload = json.dumps(claims, separators=(",", ":")).encode()
        from kling_flows.upstream.signing import JWS

        return JWS.encode(payload, self.secret_key.get_secret_value(), algorithm="HS256")


@dataclass(frozen=True, slots=True, repr=False)
class ApiKeyCredentials:
    """A static API key, sent as it is.

    Args:
        api_key: Without the word ``Bearer``.

    Raises:
        ConfigurationError: The key is empty or holds a character that no key has.
    """

    api_key: SecretStr

    def __post_init__(self) -> None:
        _check_key("api_key", self.api_key.get_secret_value())

    def __repr__(self) -> str:
        return f"ApiKeyCredentials(fingerprint={self.fingerprint!r})"

    @property
    def fingerprint(self) -> str:
        """8 hex digits made of the key."""
        return _fingerprint("api-key", self.api_key.get_secret_value())

    @property
    def secrets(self) -> tuple[str, ...]:
        """The key."""
        return (self.api_key.get_secret_value(),)

    def authorization(self, now: float) -> str:
        """Return the value of the ``Authorization`` header; ``now`` does not matter."""
        return f"Bearer {self.api_key.get_secret_value()}"

    def invalidate(self) -> bool:
        """Do nothing: nothing is derived from the key."""
        return False


def _check_key(setting: str, value: str) -> None:
    """Refuse what would fail later with an error that quotes the whole header, key included."""
    if not value:
        raise ConfigurationError(setting, "is empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            setting,
            "holds a space, a line break or a character outside ASCII; give the key alone, without quotes, "
            "without 'Bearer' and without a line break at its end",
        )


def _fingerprint(kind: str, key: str) -> str:
    return hashlib.sha256(f"{kind}:{key}".encode()).hexdigest()[:8]
