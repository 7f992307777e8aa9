"""Around the service: addresses, health, reflection, drain."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from grpc_server.listen import listen_address
from grpc_server.server import Front
from kling_flows.errors import ConfigurationError, CredentialsMissing, LedgerUnavailable
from kling_flows.ledger import sqlite

from .rig import Rig, Served, eventually, front_settings, reflected, refused

SERVICE = "kling_flows.v1.VideoTaskService"


@pytest.mark.parametrize(
    ("configured", "address"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("127.9.9.9:1", "127.9.9.9:1"),
        ("localhost:0", "127.0.0.1:0"),
        ("[::1]:50051", "[::1]:50051"),
        ("unix:/run/front.sock", "unix:/run/front.sock"),
    ],
)
def test_loopback_addresses_are_listened_on(configured: str, address: str) -> None:
    assert listen_address(front_settings(listen=configured)) == address


@pytest.mark.parametrize(
    "configured", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:1", "example.com:50051", "[fe80::1]:1"]
)
def test_addresses_beyond_loopback_are_refused_unless_callers_are_known(configured: str) -> None:
    with pytest.raises(ConfigurationError, match=r"other machines.*127\.0\.0\.1:") as caught:
        listen_address(front_settings(listen=configured))
    assert caught.value.setting == "KLING_FLOWS_ACCESS_FILE"


@pytest.mark.parametrize("configured", ["nothing", "h:99999"])
def test_what_is_no_address_is_refused_with_what_would_do(configured: str) -> None:
    with pytest.raises(ConfigurationError, match=r"KLING_FLOWS_LISTEN.*127\.0\.0\.1:") as caught:
        listen_address(front_settings(listen=configured))
    assert caught.value.setting == "KLING_FLOWS_LISTEN"


async def test_a_port_that_is_taken_is_refused_with_a_remedy(served: Served) -> None:
    with pytest.raises(ConfigurationError, match=r"KLING_FLOWS_LISTEN.*in use.*127\.0\.0\.1:0"):
        await Front.start(front_settings(listen=served.front.address), served.ledger)
    assert (await served.create()).revision == 1


async def test_a_front_can_listen_on_a_unix_socket_which_is_its_owners_only(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "front.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    served = await rig.serve(listen=f"unix:{path}")

    assert served.front.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await served.create()).revision == 1
    with pytest.raises(ConfigurationError, match="in use"):
        await Front.start(front_settings(listen=f"unix:{path}"), served.ledger)
    assert (await served.create()).revision == 1


def test_a_unix_socket_has_one_front(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="must be 1") as caught:
        listen_address(front_settings(listen=f"unix:{tmp_path / 'front.sock'}", fronts=2))
    assert caught.value.setting == "KLING_FLOWS_FRONTS"


async def test_a_front_needs_a_provider_but_no_key(rig: Rig) -> None:
    ledger = await rig.open_ledger()
    served = await rig.serve(ledger, provider="kling")

    assert (await served.create()).revision == 1
    with pytest.raises(CredentialsMissing):
        await Front.start(front_settings(provider=None), ledger)


async def _health(served: Served, name: str) -> int:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


@pytest.mark.parametrize("name", ["", SERVICE])
async def test_health_is_serving_until_the_drain(served: Served, name: str) -> None:
    assert await _health(served, name) == health_pb2.HealthCheckResponse.SERVING
    await served.front.begin_drain()
    assert await _health(served, name) == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_follows_the_ledger(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpc_server.health.LOOK_SECONDS", 0.02)
    served = await rig.serve()
    head = served.ledger.head

    async def away() -> int:
        raise LedgerUnavailable("locked")

    monkeypatch.setattr(served.ledger, "head", away)
    await eventually(lambda: _says(served, health_pb2.HealthCheckResponse.NOT_SERVING))
    monkeypatch.setattr(served.ledger, "head", head)
    await eventually(lambda: _says(served, health_pb2.HealthCheckResponse.SERVING))


async def test_health_follows_a_ledger_that_cannot_be_written_for_a_while(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grpc_server.health.LOOK_SECONDS", 0.02)
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0.2)
    served = await rig.serve()
    with closing(sqlite3.connect(rig.url.removeprefix("sqlite:///"), isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert (await refused(served.create())).reason == "LEDGER_UNAVAILABLE"
        await eventually(lambda: _says(served, health_pb2.HealthCheckResponse.NOT_SERVING))
    await eventually(lambda: _says(served, health_pb2.HealthCheckResponse.SERVING))
    assert (await served.create()).revision == 1


async def _says(served: Served, status: int) -> bool:
    return await _health(served, SERVICE) == status


async def test_health_tells_of_a_log_that_cannot_be_followed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grpc_server.health.LOOK_SECONDS", 0.02)
    served = await rig.serve()
    read_events = served.ledger.read_events

    async def unreadable(*_: object) -> Any:
        raise ValueError("a state of the future")

    async def says(status: int) -> bool:
        return await _health(served, "") == status

    monkeypatch.setattr(served.ledger, "read_events", unreadable)
    await served.create()
    await eventually(lambda: says(health_pb2.HealthCheckResponse.NOT_SERVING))
    monkeypatch.setattr(served.ledger, "read_events", read_events)
    await eventually(lambda: says(health_pb2.HealthCheckResponse.SERVING))


async def test_reflection_lists_the_services(served: Served) -> None:
    assert await reflected(served) == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_method_that_does_not_exist_is_unimplemented(served: Served) -> None:
    call = served.channel.unary_unary(f"/{SERVICE}/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_drain_lets_creates_finish_that_were_on_their_way(served: Served) -> None:
    creates = [asyncio.create_task(served.create()) for _ in range(50)]
    await eventually(lambda: _started(served))
    await asyncio.wait_for(served.front.drain(), 5)
    answers = await asyncio.gather(*creates, return_exceptions=True)

    # Whatever was not answered was refused, in one of the two ways that a drain has.
    made = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(made) == await served.ledger.head()
    for error in answers:
        if isinstance(error, BaseException):
            assert isinstance(error, grpc.aio.AioRpcError)
            assert re.fullmatch("UNAVAILABLE|CANCELLED", error.code().name)


async def _started(served: Served) -> bool:
    return await served.ledger.head() > 0
