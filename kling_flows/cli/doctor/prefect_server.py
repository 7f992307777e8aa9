"""The Prefect server that the settings name, or the place for our own; asked over HTTP, without Prefect's package."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import httpx

from kling_flows.cli.doctor.finding import Finding, misconfigured, ok, problem, warning
from kling_flows.cli.doctor.listening import address_of, somebody_listens
from kling_flows.errors import ConfigurationError
from kling_flows.serve.address import free_address
from kling_flows.settings import Settings, split_address

_CHECK: Final = "prefect"

#: Seconds for one call.
_SECONDS: Final = 10.0


async def check_prefect(settings: Settings, *, server_runs: bool) -> Finding:
    """The Prefect server that the settings name, or the place for our own.

    Args:
        settings: Say which.
        server_runs: Whether a kling-flows server runs here, whose Prefect server it may be.
    """
    try:
        installed = version("prefect")
    except PackageNotFoundError:
        return problem(_CHECK, "not installed", "pip install kling-flows")
    if settings.prefect_api_url is not None:
        return await _named_prefect(settings.prefect_api_url.rstrip("/"), installed)
    setting = "KLING_FLOWS_PREFECT_LISTEN"
    try:
        host, port = split_address(setting, settings.prefect_listen)
        if not await somebody_listens(settings.prefect_listen):
            free_address(setting, settings.prefect_listen)
            return _own_prefect(settings.prefect_listen, installed)
    except ConfigurationError as error:
        return misconfigured(_CHECK, error)
    place = address_of(host, port)
    if not await _is_prefect(f"http://{place}/api"):
        return problem(
            _CHECK,
            f"something other than Prefect listens at {place}",
            f"stop it, or name another place for our own Prefect server in {setting}",
        )
    if server_runs:
        return ok(_CHECK, f"our own server answers at {place}")
    return problem(
        _CHECK,
        f"a Prefect server of somebody else listens at {place}, where serve would start its own",
        f"use it: KLING_FLOWS_PREFECT_API_URL=http://{place}/api; or name another place in {setting}",
    )


def _own_prefect(place: str, installed: str) -> Finding:
    named = os.environ.get("PREFECT_API_URL")
    if named:
        return warning(
            _CHECK,
            f"PREFECT_API_URL is set, and serve starts a server of its own at {place} all the same",
            "to use the named one set KLING_FLOWS_PREFECT_API_URL to the same",
        )
    return ok(_CHECK, f"{installed}; serve starts its own server at {place}, which is free")


async def _named_prefect(api: str, installed: str) -> Finding:
    try:
        shown = httpx.URL(api).copy_with(query=None, username=None, password=None)
    except httpx.InvalidURL:
        return problem(_CHECK, "KLING_FLOWS_PREFECT_API_URL is not a URL", "for example http://127.0.0.1:4200/api")
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, headers=_prefect_authorization()) as client:
            answer = await client.get(f"{api}/admin/version")
    except httpx.HTTPError as error:
        return problem(
            _CHECK,
            f"no Prefect server answers at {shown} ({type(error).__name__})",
            "start it (prefect server start), or correct KLING_FLOWS_PREFECT_API_URL",
        )
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return problem(_CHECK, f"{shown} wants to know who calls", "set PREFECT_API_KEY or PREFECT_API_AUTH_STRING")
    theirs = answer.text.strip().strip('"')
    if not answer.is_success or not theirs[:1].isdecimal():
        return problem(
            _CHECK,
            f"{shown} is not Prefect's API (HTTP {answer.status_code})",
            "KLING_FLOWS_PREFECT_API_URL ends in /api",
        )
    if theirs.split(".")[:2] != installed.split(".")[:2]:
        return warning(
            _CHECK,
            f"the server at {shown} is {theirs}, the package here {installed}",
            "use the same minor release on both sides",
        )
    return ok(_CHECK, f"{theirs} answers at {shown}")


def _prefect_authorization() -> Mapping[str, str]:
    """As Prefect's own client does it."""
    key, pair = os.environ.get("PREFECT_API_KEY"), os.environ.get("PREFECT_API_AUTH_STRING")
    if key:
        return {"Authorization": f"Bearer {key}"}
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"} if pair else {}


async def _is_prefect(api: str) -> bool:
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            return (await client.get(f"{api}/health")).text.strip() == "true"
    except httpx.HTTPError:
        return False
