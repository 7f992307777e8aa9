"""Who calls: the credentials of both surfaces, refused in the words that were seen live (fact sheet 1.4, 1.5)."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from typing import Final

import jwt

from kling_flows.sandbox.errors import Refusal
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_API_KEY, SANDBOX_SECRET_KEY, KlingCode

#: The one account of the official surface: Kling counts per account, whichever of its keys is used (fact sheet 7.2).
OFFICIAL_ACCOUNT: Final = "kling"
#: The account behind the sandbox's key on CometAPI's surface.
COMETAPI_ACCOUNT: Final = "cometapi"

#: How keys begin: CometAPI's, and those of the sandbox.
_COMETAPI_KEY_PREFIX: Final = "sk-"
_API_KEY_PREFIX: Final = "sandbox-api-key"

#: Seen live where a JWT is sent to the standard dialect (fact sheet 1.3).
_KEY_PAIR_REFUSED: Final = (
    "Authentication error. The current API does not support AK/SK; please go to the console "
    "(https://kling.ai/dev/api-key) to create API key."
)
_BEARER: Final = "bearer "
_MAX_REMEMBERED: Final = 1024


class OfficialAuth:
    """Takes a JWT signed with the sandbox's key pair, or the sandbox's API key (fact sheet 1.2, 1.3)."""

    def __init__(self) -> None:
        # exp by token: callers send one token many times, and checking a signature is most of what a query costs.
        self._known: OrderedDict[str, float] = OrderedDict()

    def account(self, header: str | None, *, key_only: bool = False) -> str:
        """The account of an ``Authorization`` header.

        Args:
            header: The header.
            key_only: Whether a JWT is refused, be it good or bad.

        Raises:
            Refusal: 401 with 1000 to 1004.
        """
        if not header:
            raise Refusal(KlingCode.AUTH_EMPTY)
        if not header.lower().startswith(_BEARER):
            raise Refusal(KlingCode.AUTH_INVALID)
        token = header[len(_BEARER) :].strip()
        if token == SANDBOX_API_KEY:
            return OFFICIAL_ACCOUNT
        if key_only and token.count(".") == 2:
            raise Refusal(KlingCode.AUTH_INVALID, _KEY_PAIR_REFUSED)
        if key_only:
            raise Refusal(KlingCode.AUTH_INVALID, "api key not found")
        if self._known.get(token, 0.0) > time.time():
            return OFFICIAL_ACCOUNT
        self._remember(token, _check_jwt(token))
        return OFFICIAL_ACCOUNT

    def _remember(self, token: str, expires: float) -> None:
        self._known[token] = expires
        if len(self._known) > _MAX_REMEMBERED:
            self._known.popitem(last=False)


class CometApiAuth:
    """Takes the sandbox's API key, and any key that looks like one of CometAPI's: each is an account of its own."""

    def account(self, header: str | None) -> str | None:
        """The account of an ``Authorization`` header; ``None`` if it is not accepted."""
        if not header or not header.lower().startswith(_BEARER):
            return None
        key = header[len(_BEARER) :].strip()
        if key == SANDBOX_API_KEY:
            return COMETAPI_ACCOUNT
        if not key.startswith(_COMETAPI_KEY_PREFIX):
            return None
        # Accounts are named in the charge book, and somebody may send a real key by mistake.
        return f"{COMETAPI_ACCOUNT}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"


def _check_jwt(token: str) -> float:
    """Check a token.

    Returns:
        Its ``exp`` in Unix seconds.
    """
    dots = token.count(".")
    if dots != 2:
        if dots == 0 and token.startswith(_API_KEY_PREFIX):
            raise Refusal(KlingCode.AUTH_INVALID, "api key not found")
        # Seen live with 0; the other counts are how the Java library that words it so goes on.
        found = {0: "0", 1: "2"}.get(dots, "> 3")
        raise Refusal(KlingCode.AUTH_INVALID, f"The token was expected to have 3 parts, but got {found}")
    try:
        claimed = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError as error:
        raise Refusal(KlingCode.AUTH_INVALID) from error
    if claimed.get("iss") != SANDBOX_ACCESS_KEY:
        # The secret to check with is found by the access key, so that an unknown one comes before a wrong signature.
        raise Refusal(KlingCode.AUTH_INVALID, "access key not exist")
    try:
        claims = jwt.decode(token, SANDBOX_SECRET_KEY, algorithms=["HS256"], options={"require": ["exp", "nbf"]})
    except jwt.ImmatureSignatureError as error:
        raise Refusal(KlingCode.AUTH_NOT_YET_VALID) from error
    except jwt.ExpiredSignatureError as error:
        raise Refusal(KlingCode.AUTH_EXPIRED) from error
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
        raise Refusal(KlingCode.AUTH_FAILED) from error
    except jwt.InvalidTokenError as error:
        raise Refusal(KlingCode.AUTH_INVALID) from error
    return float(claims["exp"])
