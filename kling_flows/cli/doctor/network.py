"""The server, its HTTP side and its metrics, on this machine or elsewhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import grpc
import httpx

from grpc_server.http.address import http_address
from kling_flows.cli.client import Patience
from kling_flows.cli.connect import connect
from kling_flows.cli.doctor.finding import Finding, misconfigured, ok, problem
from kling_flows.cli.doctor.listening import UNIX, address_of, somebody_listens
from kling_flows.cli.options import Shared
from kling_flows.cli.output import Output
from kling_flows.cli.status import details_of
from kling_flows.errors import ConfigurationError, CredentialsRejected, PermissionMissing
from kling_flows.serve.address import free_address
from kling_flows.settings import Settings, split_address
from kling_flows.v1.video_task_service_pb2 import ListModelsRequest

_SERVER: Final = "server"
_HTTP: Final = "http"
_RUNNER_METRICS: Final = "runner metrics"

#: Seconds that anybody gets for an answer.
_SECONDS: Final = 10.0
_IMPATIENT: Final = Patience(unreachable=0.0, unavailable=0.0, lost=0.0)

_METRIC: Final = "kling_flows_"


@dataclass(frozen=True, slots=True)
class ServerCheck:
    """The server.

    Args:
        finding: What is to be said of it.
        runs: Whether a kling-flows server answers.
    """

    finding: Finding
    runs: bool = False


async def check_server(shared: Shared, settings: Settings, output: Output) -> ServerCheck:
    """Whether a server runs, is healthy and lets us in; without one, whether it could listen."""
    named: str | None = shared.values.get("server")
    address = named or settings.listen
    try:
        if not await somebody_listens(address):
            if named is not None:
                return ServerCheck(problem(_SERVER, f"nobody answers at {named}", "start it there: kling-flows serve"))
            if not address.startswith(UNIX):
                free_address("KLING_FLOWS_LISTEN", address)
            return ServerCheck(ok(_SERVER, f"none runs; {address} is free for kling-flows serve"))
        client = connect(shared, output, patience=_IMPATIENT)
    except ConfigurationError as error:
        return ServerCheck(misconfigured(_SERVER, error))
    async with client:
        try:
            async with asyncio.timeout(_SECONDS):
                health = await client.health()
                if health != "SERVING":
                    return ServerCheck(
                        problem(
                            _SERVER,
                            f"kling-flows at {address} is {health}",
                            "it drains, or its ledger is out of reach: see the line about the ledger, and its log",
                        ),
                        runs=True,
                    )
                await client.list_models(ListModelsRequest())
        except grpc.aio.AioRpcError as error:
            return _refused(settings, address, error)
        except TimeoutError:
            return ServerCheck(_stranger(settings, address))
    return ServerCheck(ok(_SERVER, f"kling-flows at {address} is serving"), runs=True)


async def check_http(settings: Settings) -> Finding:
    """Where HTTP is served, if it is."""
    if settings.http_listen is None:
        return ok(_HTTP, "not served")
    try:
        host, port = http_address(settings.http_listen)
    except ConfigurationError as error:
        return misconfigured(_HTTP, error)
    return await _check_port(_HTTP, "KLING_FLOWS_HTTP_LISTEN", host, port)


async def check_runner_metrics(settings: Settings) -> Finding:
    """Where a runner serves its metrics, if it does."""
    if settings.runner_metrics_listen is None:
        return ok(_RUNNER_METRICS, "not served")
    setting = "KLING_FLOWS_RUNNER_METRICS_LISTEN"
    try:
        host, port = split_address(setting, settings.runner_metrics_listen)
    except ConfigurationError as error:
        return misconfigured(_RUNNER_METRICS, error)
    return await _check_port(_RUNNER_METRICS, setting, host, port)


async def _check_port(check: str, setting: str, host: str, port: int) -> Finding:
    place = address_of(host, port)
    if not await somebody_listens(place):
        try:
            free_address(setting, place)
        except ConfigurationError as error:
            return misconfigured(check, error)
        return ok(check, f"{place} is free")
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=False) as client:
            answer = await client.get(f"http://{place}/metrics")
    except httpx.HTTPError:
        answer = None
    # With an access file only an administrator sees the figures.
    refused = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
    if answer is not None and (_METRIC in answer.text or answer.status_code in refused):
        return ok(check, f"kling-flows answers at {place}")
    return problem(
        check, f"something other than kling-flows listens at {place}", f"stop it, or name another place in {setting}"
    )


def _refused(settings: Settings, address: str, error: grpc.aio.AioRpcError) -> ServerCheck:
    reason = details_of(error).reason
    if reason in (CredentialsRejected.reason, PermissionMissing.reason):
        return ServerCheck(
            problem(
                _SERVER,
                f"kling-flows at {address} does not let us in ({reason})",
                "set KLING_FLOWS_TOKEN to a token of its access file (kling-flows token makes one), or "
                "KLING_FLOWS_CLIENT_CERT and KLING_FLOWS_CLIENT_KEY",
            ),
            runs=True,
        )
    if reason:
        return ServerCheck(problem(_SERVER, f"kling-flows at {address} answers {reason}", "see its log"), runs=True)
    return ServerCheck(_stranger(settings, address))


def _stranger(settings: Settings, address: str) -> Finding:
    tls = settings.server_tls or settings.server_ca is not None
    return problem(
        _SERVER,
        f"what listens at {address} does not answer as kling-flows" + (" over TLS" if tls else " without TLS"),
        "stop it or name another place in KLING_FLOWS_LISTEN; if it is kling-flows, "
        + (
            "see whether KLING_FLOWS_SERVER_CA is its authority"
            if tls
            else "set KLING_FLOWS_SERVER_CA or KLING_FLOWS_SERVER_TLS to speak TLS with it"
        ),
    )
