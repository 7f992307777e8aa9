"""Fronts under their supervisor: several at one address, and what probes see of the end of one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from kling_flows.errors import ConfigurationError
from kling_flows.serve.address import shared_address
from kling_flows.v1.video_task_service_pb2 import GetVideoTaskRequest, WatchVideoTasksRequest
from kling_flows.v1.video_task_service_pb2_grpc import VideoTaskServiceStub

from ..stack import Server, serve, serve_settings, until
from .rig import PATIENCE, Refusal, create_request

#: With so many connections both of two processes get some, but for once in 2^39 runs.
CONNECTIONS = 40


@contextmanager
def _connection(address: str) -> Iterator[Any]:
    """A connection of its own, at whichever front the system chooses."""
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        grpc.channel_ready_future(channel).result(PATIENCE)
        yield VideoTaskServiceStub(channel)


def _fronts(server: Server) -> set[psutil.Process]:
    return {child for child in psutil.Process(server.child.pid).children() if "grpc_server" in child.cmdline()}


def _listening(server: Server) -> set[psutil.Process]:
    port = int(server.address.rpartition(":")[2])
    return {
        front
        for front in _fronts(server)
        if any(each.laddr.port == port and each.status == "LISTEN" for each in front.net_connections("tcp"))
    }


def _connected(server: Server) -> set[psutil.Process]:
    return {
        front
        for front in _listening(server)
        if any(each.status == "ESTABLISHED" for each in front.net_connections("tcp"))
    }


def test_two_fronts_share_an_address_their_load_and_their_resume_tokens(tmp_path: Path) -> None:
    settings = serve_settings(tmp_path, "http://127.0.0.1:1", KLING_FLOWS_FRONTS="2")
    with serve(tmp_path, settings, "--role", "front") as server:
        both = until(lambda: len(found := _listening(server)) == 2 and found, "both fronts listen")
        with ExitStack() as stack:
            stubs = [stack.enter_context(_connection(server.address)) for _ in range(CONNECTIONS)]
            assert _connected(server) == both
            name = stubs[0].CreateVideoTask(create_request(), timeout=PATIENCE).name
            for stub in stubs:
                assert stub.GetVideoTask(GetVideoTaskRequest(name=name), timeout=PATIENCE).name == name
            watch = stubs[0].WatchVideoTasks(WatchVideoTasksRequest(), timeout=PATIENCE)
            token = next(message.resume_token for message in watch if message.synced)
            late = stubs[1].CreateVideoTask(create_request("late"), timeout=PATIENCE).name
            request = WatchVideoTasksRequest(resume_token=token)
            # Some of these are at the other front than the watch was.
            for stub in stubs:
                again = stub.WatchVideoTasks(request, timeout=PATIENCE)
                assert next(task.name for message in again for task in message.video_tasks) == late
                again.cancel()
            watch.cancel()
        victim = both.pop()
        victim.kill()
        with _connection(server.address) as stub:
            assert stub.GetVideoTask(GetVideoTaskRequest(name=name), timeout=PATIENCE).name == name
        after = until(lambda: len(found := _listening(server)) == 2 and found, "another front takes its place")
        assert victim not in after
        assert both <= after
        server.child.send_signal(signal.SIGTERM)
        assert server.child.wait(PATIENCE) == 0
        assert not any(front.is_running() for front in after)


def test_an_address_at_which_somebody_listens_is_not_shared_with_him() -> None:
    holder, address = shared_address("KLING_FLOWS_LISTEN", "127.0.0.1:0")
    with holder:
        holder.listen()
        with pytest.raises(ConfigurationError, match=address):
            shared_address("KLING_FLOWS_LISTEN", address)


def test_health_follows_the_drain_while_a_watch_is_open(tmp_path: Path) -> None:
    settings = serve_settings(tmp_path, "http://127.0.0.1:1", KLING_FLOWS_LISTEN=f"unix:{tmp_path / 'front.sock'}")
    with serve(tmp_path, settings, "--role", "front") as server, grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(HealthCheckRequest(), timeout=PATIENCE).status == HealthCheckResponse.SERVING
        seen = health.Watch(HealthCheckRequest(service="kling_flows.v1.VideoTaskService"), timeout=PATIENCE)
        assert next(seen).status == HealthCheckResponse.SERVING
        watch = VideoTaskServiceStub(channel).WatchVideoTasks(WatchVideoTasksRequest(), timeout=PATIENCE)
        assert next(watch).synced
        server.child.send_signal(signal.SIGTERM)
        assert next(seen).status == HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            next(watch)
        assert Refusal.of(caught.value).info.metadata["resume_token"]
        assert server.child.wait(PATIENCE) == 0
        with pytest.raises(grpc.RpcError) as gone:
            health.Check(HealthCheckRequest(), timeout=PATIENCE)
        assert gone.value.code() is grpc.StatusCode.UNAVAILABLE
