"""What gRPC itself sees of a front, for those who may see it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_channelz.v1 import channelz_pb2 as pb
from grpc_channelz.v1.channelz_pb2_grpc import ChannelzStub

from grpc_server.channelz import CHANNELZ_SERVICE_NAME
from grpc_server.server import Front
from kling_flows.errors import ConfigurationError

from .access import ADS, READER, bearer
from .rig import Rig, Served, front_settings, reflected, refused

METHODS = pb.DESCRIPTOR.services_by_name["Channelz"].methods


def _stub(served: Served) -> Any:
    channel: Any = served.channel
    return ChannelzStub(channel)


async def _sockets(stub: Any, server: pb.Server) -> list[pb.Socket]:
    listed = await stub.GetServerSockets(pb.GetServerSocketsRequest(server_id=server.ref.server_id))
    return [
        (await stub.GetSocket(pb.GetSocketRequest(socket_id=reference.socket_id))).socket
        for reference in listed.socket_ref
    ]


async def test_servers_and_the_sockets_of_callers_are_shown(rig: Rig) -> None:
    served = await rig.serve(channelz=True)
    await served.create()
    stub = _stub(served)
    servers = (await stub.GetServers(pb.GetServersRequest())).server
    # Servers of other tests of this process may be there too.
    [(server, socket)] = [
        (server, socket)
        for server in servers
        for socket in await _sockets(stub, server)
        if f":{socket.local.tcpip_address.port}" == served.front.address.removeprefix("127.0.0.1")
    ]
    assert server.data.calls_started >= 1
    assert (await stub.GetServer(pb.GetServerRequest(server_id=server.ref.server_id))).server.ref == server.ref
    assert socket.data.streams_started >= 1
    channels = (await stub.GetTopChannels(pb.GetTopChannelsRequest())).channel
    assert served.front.address in str(channels)


@pytest.mark.parametrize("what", ["channel", "subchannel", "server", "socket"])
async def test_what_there_is_not_is_not_found(rig: Rig, what: str) -> None:
    served = await rig.serve(channelz=True)
    request = getattr(pb, f"Get{what.title()}Request")(**{f"{what}_id": 2**40})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(_stub(served), f"Get{what.title()}")(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_it_is_not_served_unless_somebody_asks_for_it(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _stub(served).GetServers(pb.GetServersRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert CHANNELZ_SERVICE_NAME not in await reflected(served)


async def test_reflection_lists_it(rig: Rig) -> None:
    assert CHANNELZ_SERVICE_NAME in await reflected(await rig.serve(channelz=True))


@pytest.mark.parametrize("method", [method.name for method in METHODS])
async def test_every_method_needs_the_scope_admin_because_it_shows_all_tenants_callers(
    rig: Rig, access_file: Path, method: str
) -> None:
    served = await rig.serve(access_file=access_file, channelz=True)
    call: Any = getattr(_stub(served), method)
    request = getattr(pb, f"{method}Request")()
    stranger = await refused(call(request))
    assert (stranger.code, stranger.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_REJECTED")
    reader = await refused(call(request, **bearer(READER)))
    assert (reader.code, reader.info.metadata["scope"]) == (grpc.StatusCode.PERMISSION_DENIED, "admin")
    try:
        await call(request, **bearer(ADS))
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.NOT_FOUND  # noqa: PT017 - there is nothing of the number 0


async def test_without_its_package_the_front_says_at_the_start_what_to_install(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = await rig.open_ledger()
    monkeypatch.setitem(sys.modules, "grpc_channelz.v1", None)
    with pytest.raises(ConfigurationError, match=r"grpc_channelz.*pip install 'kling-flows\[channelz\]'") as caught:
        await Front.start(front_settings(channelz=True), ledger)
    assert caught.value.setting == "KLING_FLOWS_CHANNELZ"
