"""Who may call, and what they may do; what tenants learn of each other is test_front_tenants.py's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509

from grpc_server.interceptors import SCOPES
from grpc_server.listen import listen_address
from grpc_server.service import SERVICE_NAME
from kling_flows.errors import ConfigurationError
from kling_flows.v1 import video_task_service_pb2 as rpc
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

from .access import ADS, READER, bearer, create, entry
from .certificates import Authority
from .rig import Rig, Served, create_request, eventually, front_settings, refused

METHODS = rpc.DESCRIPTOR.services_by_name["VideoTaskService"].methods


async def test_without_credentials_nobody_is_let_in(guarded: Served) -> None:
    refusal = await refused(guarded.create())
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REJECTED")
    assert "authorization: Bearer" in refusal.message


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Basic dXNlcg==", ADS])
async def test_credentials_that_are_not_known_are_refused_and_not_repeated(guarded: Served, header: str) -> None:
    call = guarded.stub.CreateVideoTask(create_request(), metadata=(("authorization", header),))
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REJECTED")
    assert header.removeprefix("Bearer ") not in refusal.message or not header.removeprefix("Bearer ")


async def test_no_token_is_in_the_log(guarded: Served, capsys: pytest.CaptureFixture[str]) -> None:
    await create(guarded, ADS)
    await refused(create(guarded, "token-of-nobody"))
    await refused(create(guarded, READER))
    log = "".join(capsys.readouterr())
    assert all(words in log for words in ("rpc ended", "CREDENTIALS_REJECTED", "PERMISSION_MISSING"))
    assert "token-of-" not in log


@pytest.mark.parametrize("header", [{}, bearer("wrong")])
async def test_strangers_are_refused_before_anything_they_send_is_taken_in(
    guarded: Served, header: dict[str, Any]
) -> None:
    async def never() -> AsyncGenerator[bytes]:
        await asyncio.Event().wait()
        yield b""

    call = guarded.channel.stream_unary(f"/{SERVICE_NAME}/BatchCreateVideoTasks")(never(), **header)
    refusal = await refused(call)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REJECTED")


async def test_a_scope_that_is_missing_is_named(guarded: Served) -> None:
    task = await create(guarded, ADS)
    assert (
        await guarded.stub.GetVideoTask(rpc.GetVideoTaskRequest(name=task.name), **bearer(READER))
    ).name == task.name
    refusal = await refused(create(guarded, READER))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")
    assert refusal.info.metadata["scope"] == "write"


async def test_a_token_of_which_the_time_is_over_is_refused(rig: Rig, access_file: Path) -> None:
    access_file.write_text(entry("ads", ADS, "ads") + "expires = 2020-01-01T00:00:00Z\n")
    served = await rig.serve(access_file=access_file)
    assert (await refused(create(served, ADS))).reason == "CREDENTIALS_REJECTED"


async def test_a_change_of_the_file_counts_without_a_restart_and_a_mistake_in_it_does_not(
    guarded: Served, access_file: Path
) -> None:
    access_file.write_text("this is no TOML")
    for _ in range(3):
        await asyncio.sleep(0.5)
        await create(guarded, ADS)
    access_file.write_text(entry("other", "another-token", "ads"))

    async def known() -> bool:
        try:
            await create(guarded, "another-token")
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
        return True

    await eventually(known)
    assert (await refused(create(guarded, ADS))).code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[token]]\n", "token.0.tenant"),
        (entry("a", ADS, "Ads!"), "token.0.tenant"),
        (entry("a", ADS, "ads", '"root"'), "token.0.scopes"),
        (entry("a", ADS, "ads").replace("sha256", "md5"), "token.0"),
        ("not toml", "TOML"),
    ],
)
async def test_a_file_that_cannot_be_used_is_refused_at_the_start(
    rig: Rig, access_file: Path, text: str, words: str
) -> None:
    access_file.write_text(text)
    with pytest.raises(ConfigurationError, match=words) as caught:
        await rig.serve(access_file=access_file)
    assert caught.value.setting == "KLING_FLOWS_ACCESS_FILE"
    assert hashlib.sha256(ADS.encode()).hexdigest() not in caught.value.message


def test_every_method_needs_a_scope() -> None:
    assert set(SCOPES) == {method.name for method in METHODS}


@pytest.mark.parametrize("settings", [{}, {"insecure": True}, {"tls_cert": Path("c"), "tls_key": Path("k")}])
def test_beyond_loopback_callers_must_be_known(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="kling-flows token") as caught:
        listen_address(front_settings(listen="0.0.0.0:0", **settings))
    assert caught.value.setting == "KLING_FLOWS_ACCESS_FILE"


def test_beyond_loopback_there_is_tls_or_somebody_says_that_there_need_not_be(access_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="KLING_FLOWS_INSECURE") as caught:
        listen_address(front_settings(listen="0.0.0.0:0", access_file=access_file))
    assert caught.value.setting == "KLING_FLOWS_TLS_CERT"
    assert listen_address(front_settings(listen="0.0.0.0:0", access_file=access_file, insecure=True)) == "0.0.0.0:0"


async def test_health_needs_no_credentials_and_reflection_does(guarded: Served) -> None:
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
    from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

    check = guarded.channel.unary_unary(
        "/grpc.health.v1.Health/Check", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
    )
    assert (await check(HealthCheckRequest(service=SERVICE_NAME))).status == HealthCheckResponse.SERVING
    reflect = guarded.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ServerReflectionRequest.SerializeToString,
        ServerReflectionResponse.FromString,
    )

    async def services(**rest: Any) -> list[str]:
        call = reflect(iter([ServerReflectionRequest(list_services="")]), **rest)
        return [service.name async for answer in call for service in answer.list_services_response.service]

    assert SERVICE_NAME in await services(**bearer(READER))
    assert (await refused(services())).code == grpc.StatusCode.UNAUTHENTICATED


async def test_tls_is_served_and_a_certificate_is_exchanged_without_a_restart(rig: Rig, tmp_path: Path) -> None:
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    cert, key = before.issue("server")
    served = await rig.serve(tls_cert=cert, tls_key=key)

    async def works_with(authority: Authority) -> bool:
        credentials = grpc.ssl_channel_credentials(authority.path.read_bytes())
        async with grpc.aio.secure_channel(served.front.address, credentials) as channel:
            try:
                await VideoTaskServiceStub(channel).CreateVideoTask(create_request(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    assert await works_with(before)
    assert not await works_with(after)
    new_cert, new_key = after.issue("server")
    cert.write_bytes(new_cert.read_bytes())
    # Half way there is a certificate without its key: the former pair goes on.
    assert await works_with(before)
    key.write_bytes(new_key.read_bytes())
    assert await works_with(after)
    assert not await works_with(before)


async def test_a_client_certificate_is_a_tenants(rig: Rig, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    access = tmp_path / "access.toml"
    access.write_text(
        '[[certificate]]\nsubject = "spiffe://example.org/ads"\ntenant = "ads"\nscopes = ["read", "write"]\n'
        '[[certificate]]\nsubject = "news"\ntenant = "news"\nscopes = ["read", "write"]\n'
    )
    cert, key = authority.issue("server")
    served = await rig.serve(tls_cert=cert, tls_key=key, tls_client_ca=authority.path, access_file=access)

    async def tenant_of(common_name: str, *names: x509.GeneralName) -> str:
        client_cert, client_key = authority.issue(common_name, names=names)
        credentials = grpc.ssl_channel_credentials(
            authority.path.read_bytes(), client_key.read_bytes(), client_cert.read_bytes()
        )
        async with grpc.aio.secure_channel(served.front.address, credentials) as channel:
            task = await VideoTaskServiceStub(channel).CreateVideoTask(create_request())
        return (await served.ledger.get(task.name.removeprefix("videoTasks/"))).tenant

    assert await tenant_of("whoever", x509.UniformResourceIdentifier("spiffe://example.org/ads")) == "ads"
    assert await tenant_of("news") == "news"
    assert (await refused(tenant_of("nobody"))).code == grpc.StatusCode.UNAUTHENTICATED
    bare = grpc.ssl_channel_credentials(authority.path.read_bytes())
    async with grpc.aio.secure_channel(served.front.address, bare) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await VideoTaskServiceStub(channel).CreateVideoTask(create_request(), timeout=5)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_the_authority_of_client_certificates_is_exchanged_without_a_restart(rig: Rig, tmp_path: Path) -> None:
    servers = Authority(tmp_path / "servers")
    before, after = (Authority(tmp_path / name, name) for name in ("before", "after"))
    access, client_ca = tmp_path / "access.toml", tmp_path / "clients.pem"
    access.write_text('[[certificate]]\nsubject = "ads"\ntenant = "ads"\nscopes = ["read", "write"]\n')
    client_ca.write_bytes(before.path.read_bytes())
    cert, key = servers.issue("server")
    served = await rig.serve(tls_cert=cert, tls_key=key, tls_client_ca=client_ca, access_file=access)
    clients = {authority: authority.issue("ads") for authority in (before, after)}

    async def lets_in(authority: Authority) -> bool:
        client_cert, client_key = clients[authority]
        credentials = grpc.ssl_channel_credentials(
            servers.path.read_bytes(), client_key.read_bytes(), client_cert.read_bytes()
        )
        async with grpc.aio.secure_channel(served.front.address, credentials) as channel:
            try:
                await VideoTaskServiceStub(channel).CreateVideoTask(create_request(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        return True

    assert (await lets_in(before), await lets_in(after)) == (True, False)
    client_ca.write_bytes(after.path.read_bytes())
    assert (await lets_in(before), await lets_in(after)) == (False, True)
    # While one is exchanged for the other, both may be named.
    client_ca.write_bytes(before.path.read_bytes() + after.path.read_bytes())
    assert (await lets_in(before), await lets_in(after)) == (True, True)


def _other_key(authority: Authority, cert: Path, key: Path) -> tuple[Path, Path]:
    return cert, authority.issue("other")[1]


def _no_pem(authority: Authority, cert: Path, key: Path) -> tuple[Path, Path]:
    cert.write_text("nothing")
    return cert, key


@pytest.mark.parametrize(("spoil", "setting"), [(_other_key, "KLING_FLOWS_TLS_KEY"), (_no_pem, "KLING_FLOWS_TLS_CERT")])
async def test_tls_files_that_cannot_work_are_refused_at_the_start(
    rig: Rig, tmp_path: Path, spoil: Callable[..., tuple[Path, Path]], setting: str
) -> None:
    authority = Authority(tmp_path)
    cert, key = spoil(authority, *authority.issue("server"))
    with pytest.raises(ConfigurationError) as caught:
        await rig.serve(tls_cert=cert, tls_key=key)
    assert caught.value.setting == setting
