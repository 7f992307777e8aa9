"""The provider: which account, whether it can be reached, by what time it lives, and whether it takes our key."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx

from kling_flows.cli.doctor.finding import Finding, misconfigured, ok, problem, warning
from kling_flows.errors import ConfigurationError, CredentialsMissing
from kling_flows.settings import Settings
from kling_flows.upstream import Account, ResourcePack, UpstreamClient
from kling_flows.upstream.auth import JwtCredentials
from kling_flows.upstream.constants import JWT_LIFETIME, JWT_SKEW, KlingCode, Provider
from kling_flows.upstream.errors import (
    UpstreamAuth,
    UpstreamBilling,
    UpstreamError,
    UpstreamNotFound,
    UpstreamPermission,
    UpstreamThrottled,
    UpstreamUnavailable,
)

_ACCOUNT: Final = "account"
_REACH: Final = "provider"
_CLOCK: Final = "clock"
_KEY: Final = "key"

#: Seconds for one call.
_SECONDS: Final = 10.0
#: Seconds between two clocks that need not worry anybody; the answer's own way and the header's resolution are below.
_WORRYING: Final = 30.0
_NOBODY: Final = "kling-flows-doctor-asks-for-nothing"

#: What each refusal of a key means (fact sheet 1.4, 1.5).
_AUTH: Final[Mapping[int | str | None, tuple[str, str]]] = {
    KlingCode.AUTH_FAILED: (
        "the signature is wrong",
        "KLING_SECRET_KEY is not the secret of KLING_ACCESS_KEY; copy both again from the provider's console",
    ),
    KlingCode.AUTH_EMPTY: ("no Authorization header has arrived", "see whether a proxy on the way removes it"),
    KlingCode.AUTH_INVALID: (
        "the provider does not know the key",
        "copy it again from the provider's console; a key belongs to one region, see KLING_FLOWS_REGION",
    ),
    KlingCode.AUTH_NOT_YET_VALID: ("the token is not valid yet", "set this machine's clock, for example by NTP"),
    KlingCode.AUTH_EXPIRED: ("the token has expired", "set this machine's clock, for example by NTP"),
}


@dataclass(frozen=True, slots=True)
class Way:
    """The way to the provider.

    Args:
        reach: Whether somebody answers there.
        clock: What its clock says; None if nobody has answered.
    """

    reach: Finding
    clock: Finding | None = None


def check_account(settings: Settings) -> tuple[Finding, Account | None]:
    """Which account new tasks are paid by; None if there is none."""
    try:
        account = settings.account()
    except CredentialsMissing as error:
        return problem(
            _ACCOUNT, error.message, "set the provider's key, in a variable or in the configuration file"
        ), None
    except ConfigurationError as error:
        return misconfigured(_ACCOUNT, error), None
    return ok(_ACCOUNT, f"{account.name}, {account.dialect.value} dialect, at {account.base_url}"), account


async def check_way(account: Account) -> Way:
    """Ask the provider's host for nothing, without a key: whatever it answers, it is there."""
    host = urlsplit(account.base_url).hostname or ""
    began = time.time()
    try:
        async with httpx.AsyncClient(follow_redirects=False, timeout=_SECONDS) as client:
            response = await client.get(account.base_url)
    except httpx.HTTPError as error:
        return Way(_unreachable(account, host, error))
    ended = time.time()
    reach = ok(_REACH, f"{host} answers within {(ended - began) * 1000:.0f} ms")
    return Way(reach, _clock(account, response.headers.get("Date"), (began + ended) / 2))


async def check_key(account: Account) -> Finding:
    """One call with the key that costs nothing and makes nothing: the account's packs, or a task that is not there."""
    try:
        async with UpstreamClient(account, read_deadline=_SECONDS) as client:
            if account.provider is Provider.COMETAPI:
                # It passes neither account nor list on (fact sheet 4.5).
                return await _ask_for_nothing(client)
            now = datetime.now(UTC)
            return _packs(await client.account_costs(now - timedelta(days=30), now))
    except UpstreamError as error:
        return _refused(error)


async def _ask_for_nothing(client: UpstreamClient) -> Finding:
    with suppress(UpstreamNotFound):
        await client.get(_NOBODY)
    return ok(_KEY, "accepted; what is left of the account is shown in the provider's console only")


def _packs(packs: tuple[ResourcePack, ...]) -> Finding:
    online = [pack for pack in packs if pack.status == "online"]
    if packs and not online:
        return warning(
            _KEY,
            "accepted; none of the account's resource packs can be used any more",
            "buy units, unless the account pays from its balance; `kling-flows account` shows the packs",
        )
    left = sum((pack.remaining or Decimal() for pack in online), Decimal())
    return ok(_KEY, f"accepted; {len(online)} resource packs with {left:f} units left" if online else "accepted")


def _refused(error: UpstreamError) -> Finding:
    code = error.provider_code
    shown = "" if code is None else f" (code {code})"
    if isinstance(error, UpstreamAuth):
        meaning, remedy = _AUTH.get(code, ("the provider refuses the key", "copy it again from its console"))
        return problem(_KEY, f"refused: {meaning}{shown}", remedy)
    if isinstance(error, UpstreamBilling):
        return problem(_KEY, f"accepted, but the account cannot pay{shown}", "buy units in the provider's console")
    if isinstance(error, UpstreamPermission):
        return problem(
            _KEY,
            f"accepted, but not allowed to call{shown}",
            "see in the provider's console what the key may do and from which addresses",
        )
    if isinstance(error, (UpstreamThrottled, UpstreamUnavailable)):
        return warning(_KEY, f"not known: {error.message}", "run doctor again in a minute")
    return problem(_KEY, f"not known: {error.message}", "see whether KLING_FLOWS_UPSTREAM_URL is the provider's API")


def _clock(account: Account, date: str | None, now: float) -> Finding:
    try:
        ahead = now - parsedate_to_datetime(date or "").timestamp()
    except (ValueError, OverflowError):
        return warning(
            _CLOCK, "the provider's answer has no readable time", "compare this machine's clock with another one"
        )
    if abs(ahead) <= _WORRYING:
        return ok(_CLOCK, f"within {_WORRYING:.0f} s of the provider's")
    refused = isinstance(account.credentials, JwtCredentials) and not -JWT_LIFETIME <= ahead <= JWT_SKEW
    why = "each new token is refused at first, and " if refused else ""
    off = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
    found = f"this machine is {off} the provider: {why}deadlines are misjudged"
    remedy = "set the clock, for example by NTP (timedatectl set-ntp true)"
    return (problem if abs(ahead) > JWT_LIFETIME else warning)(_CLOCK, found, remedy)


def _unreachable(account: Account, host: str, error: httpx.HTTPError) -> Finding:
    causes = list(_causes(error))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return problem(
            _REACH,
            f"no name server knows {host}",
            "see whether KLING_FLOWS_UPSTREAM_URL is spelt correctly and this machine has a name server",
        )
    verification = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if verification is not None:
        return problem(
            _REACH,
            f"the certificate of {host} is not trusted ({verification.verify_message})",
            "if a proxy here opens TLS, name its authority in SSL_CERT_FILE; otherwise that is not the provider",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return problem(_REACH, f"{host} does not speak TLS there", "correct KLING_FLOWS_UPSTREAM_URL: scheme and port")
    if account.provider is Provider.SANDBOX:
        return problem(_REACH, f"no sandbox answers at {account.base_url}", "start it: kling-flows sandbox")
    how = "in time" if isinstance(error, httpx.TimeoutException) else f"({type(error).__name__})"
    return problem(
        _REACH,
        f"{host} does not answer {how}",
        f"see whether a firewall lets this machine out to {account.base_url}, or name a proxy in HTTPS_PROXY",
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What has led to an error, through all layers and all attempts."""
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for member in error.exceptions:  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                yield from _causes(member)  # pyright: ignore[reportUnknownArgumentType]
        error = error.__cause__ or error.__context__
