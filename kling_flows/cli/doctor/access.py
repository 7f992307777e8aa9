"""Who may call, and over what: the access file, certificates, and the address that the provider calls."""

from __future__ import annotations

import asyncio
import socket
import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from grpc_server.auth.access_file import AccessList, TokenEntry
from grpc_server.listen import listen_address, tls_files
from kling_flows.cli.doctor.finding import Finding, Level, misconfigured, ok, problem, warning
from kling_flows.engine.signatures import webhook_of
from kling_flows.errors import ConfigurationError
from kling_flows.outbound import check_url, policy_for
from kling_flows.settings import Settings
from kling_flows.upstream import Account

_ACCESS: Final = "access"
_TLS: Final = "tls"
_CALLBACKS: Final = "callbacks"

#: How long before its end something is worth a word.
_SOON: Final = timedelta(days=14)

#: Seconds for a name server.
_NAME_SECONDS: Final = 5.0

_OTHERS_MAY_READ: Final = stat.S_IRGRP | stat.S_IROTH


def check_access(settings: Settings) -> Finding:
    """Whether the server may listen where it is to, and knows somebody there."""
    try:
        listen_address(settings)
        if settings.access_file is None:
            return ok(
                _ACCESS, f"everybody who reaches {settings.listen} on this machine is the tenant {settings.tenant}"
            )
        entries = AccessList.read(settings.access_file)
    except ConfigurationError as error:
        return misconfigured(_ACCESS, error)
    callers = [*entries.token, *entries.certificate]
    now = datetime.now(UTC)
    over = [entry for entry in callers if entry.expires is not None and entry.expires <= now]
    file = settings.access_file
    add = f"add a caller: kling-flows token NAME >> {file}"
    if len(over) == len(callers):
        return problem(_ACCESS, f"{file} lets nobody in: " + ("all have expired" if over else "it is empty"), add)
    soon = [entry for entry in callers if entry.expires is not None and entry.expires <= now + _SOON]
    if soon:
        names = ", ".join(entry.name if isinstance(entry, TokenEntry) else entry.subject for entry in soon)
        return warning(_ACCESS, f"expired in {file}, or about to: {names}", add)
    return ok(_ACCESS, f"{file} knows {len(callers)} callers")


def check_tls(settings: Settings) -> Finding:
    """Whether certificates and keys can be read, belong together, and are of this time."""
    try:
        server = tls_files(settings)
    except ConfigurationError as error:
        return misconfigured(_TLS, error)
    files = {
        "KLING_FLOWS_TLS_CERT": settings.tls_cert,
        "KLING_FLOWS_TLS_CLIENT_CA": settings.tls_client_ca,
        "KLING_FLOWS_SERVER_CA": settings.server_ca,
        "KLING_FLOWS_CLIENT_CERT": settings.client_cert,
    }
    worst: Finding | None = None
    for setting, path in files.items():
        found = None if path is None else _certificate(setting, path)
        if found is not None and (worst is None or found.level is Level.PROBLEM):
            worst = found
    if worst is not None:
        return worst
    for key in (settings.tls_key, settings.client_key):
        if key is not None and key.exists() and key.stat().st_mode & _OTHERS_MAY_READ:
            return warning(_TLS, f"other users may read the key {key}", f"chmod 600 {key}")
    if server is None:
        return ok(_TLS, "none: the server speaks without" + (" (insecure is set)" if settings.insecure else ""))
    return ok(_TLS, f"{settings.tls_cert} and its key belong together")


async def check_callbacks(settings: Settings, account: Account | None) -> Finding:
    """Whether the provider can call us where we say so."""
    for setting, secret in (
        *(("KLING_FLOWS_CALLBACK_SECRETS", secret) for secret in settings.callback_secrets),
        *([("KLING_FLOWS_WEBHOOK_SECRET", settings.webhook_secret)] if settings.webhook_secret else []),
    ):
        try:
            webhook_of(setting, secret)
        except ConfigurationError as error:
            return misconfigured(_CALLBACKS, error)
    base_url = settings.callback_base_url
    if base_url is None:
        return ok(_CALLBACKS, "none from the provider: it is asked instead")
    if settings.http_listen is None:
        return problem(
            _CALLBACKS,
            f"nothing receives what is sent to {base_url}",
            "set KLING_FLOWS_HTTP_LISTEN, or unset KLING_FLOWS_CALLBACK_BASE_URL",
        )
    # A provider on this machine, such as the sandbox, reaches this machine.
    policy = policy_for(*([] if account is None else [account.base_url]))
    remedy = "set KLING_FLOWS_CALLBACK_BASE_URL to a public https address that leads to KLING_FLOWS_HTTP_LISTEN"
    refusal = check_url(base_url, policy)
    if refusal is not None:
        return problem(_CALLBACKS, f"the provider cannot call us: {refusal}", remedy)
    host = urlsplit(base_url).hostname or ""
    try:
        async with asyncio.timeout(_NAME_SECONDS):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return problem(_CALLBACKS, f"no name server here knows {host}", remedy)
    for *_, address in found:
        refusal = policy.refusal(ip_address(str(address[0]).partition("%")[0]), host)
        if refusal is not None:
            return problem(_CALLBACKS, f"the provider cannot call {host}: {refusal}", remedy)
    signed = "signed" if settings.callback_secrets else "unsigned, and taken as hints only"
    return ok(_CALLBACKS, f"{host} resolves to {len(found)} addresses; callbacks are {signed}")


def _certificate(setting: str, path: Path) -> Finding | None:
    """What is wrong with a certificate; None if nothing is."""
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        return problem(_TLS, f"{setting}: {path} cannot be read ({error.strerror})", "name a PEM file, readable by us")
    except ValueError:
        return problem(_TLS, f"{setting}: {path} has no PEM certificate", "name a PEM file with a certificate")
    now = datetime.now(UTC)
    renew = "put a new one in its place; a running server takes it without a restart"
    end = min(certificate.not_valid_after_utc for certificate in certificates)
    begin = max(certificate.not_valid_before_utc for certificate in certificates)
    if end <= now:
        return problem(_TLS, f"{setting}: {path} has expired on {end:%Y-%m-%d}", renew)
    if begin > now:
        return problem(_TLS, f"{setting}: {path} is valid from {begin:%Y-%m-%d} on", f"{renew}; or set the clock")
    if end <= now + _SOON:
        return warning(_TLS, f"{setting}: {path} expires on {end:%Y-%m-%d}", renew)
    return None
