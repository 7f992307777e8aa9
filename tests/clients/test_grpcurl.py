"""grpcurl, with nothing but the server's reflection."""

from __future__ import annotations

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kling_flows.v1.video_task_service_pb2 import DESCRIPTOR
from tests.stack import PATIENCE, clean_environment, until

from .conftest import Stack
from .toolchains import grpcurl

pytestmark = [pytest.mark.xdist_group("clients"), pytest.mark.timeout(1_200)]

SERVICE = DESCRIPTOR.services_by_name["VideoTaskService"]
SPEC = {"text_to_video": {"prompt": "A paper boat"}, "labels": {"from": "grpcurl"}}


class Grpcurl:
    def __init__(self, address: str) -> None:
        self._address = address
        self._command = grpcurl()

    def __call__(self, *arguments: str, data: object = None) -> subprocess.CompletedProcess[str]:
        body = () if data is None else ("-d", json.dumps(data))
        return subprocess.run(
            [self._command, "-plaintext", "-format-error", *body, self._address, *arguments],
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def method(self, method: str, **fields: Any) -> Any:
        done = self(f"{SERVICE.full_name}/{method}", data=fields)
        return json.loads(done.stdout or done.stderr)

    def stream(self, method: str, **fields: Any) -> list[Any]:
        """The messages of a stream that ends with OK."""
        done = self(f"{SERVICE.full_name}/{method}", data=fields)
        assert done.returncode == 0, done.stderr
        messages: list[Any] = []
        rest, decoder = done.stdout.strip(), json.JSONDecoder()
        while rest:
            message, end = decoder.raw_decode(rest)
            messages.append(message)
            rest = rest[end:].lstrip()
        return messages


@pytest.fixture
def curl(idle: Stack) -> Grpcurl:
    return Grpcurl(idle.address)


def test_grpcurl_lists_and_describes_everything(curl: Grpcurl) -> None:
    services = curl("list").stdout.split()
    methods = curl("list", SERVICE.full_name).stdout.split()
    described = curl("describe", SERVICE.full_name).stdout

    assert {SERVICE.full_name, "grpc.health.v1.Health"} <= set(services)
    assert methods == sorted(method.full_name for method in SERVICE.methods)
    for method in SERVICE.methods:
        assert re.search(rf"rpc {method.name} \(", described)
        message = curl("describe", method.input_type.full_name)
        assert f"message {method.input_type.name} {{" in message.stdout, message.stderr


def test_grpcurl_calls_every_unary_method(curl: Grpcurl) -> None:
    created = curl.method("CreateVideoTask", video_task=SPEC, video_task_id="first")
    name = created["name"]
    batch = curl.method("BatchCreateVideoTasks", requests=[{"video_task": SPEC}, {"video_task": {}}])
    answers = {
        "CreateVideoTask": created,
        "BatchCreateVideoTasks": batch,
        "GetVideoTask": curl.method("GetVideoTask", name=name),
        "ListVideoTasks": curl.method("ListVideoTasks", page_size=10, filter='labels.from = "grpcurl"'),
        "CancelVideoTask": curl.method("CancelVideoTask", name=name),
        "ResolveVideoTask": curl.method("ResolveVideoTask", name=name, abandon=True),
        "ListModels": curl.method("ListModels"),
        "QuoteVideoTask": curl.method("QuoteVideoTask", video_task=SPEC),
        "ListBudgets": curl.method("ListBudgets"),
        "ListCallbackDeliveries": curl.method("ListCallbackDeliveries"),
        "RetryCallbackDelivery": curl.method("RetryCallbackDelivery", name="callbackDeliveries/1"),
    }

    assert set(answers) == {method.name for method in SERVICE.methods if not method.server_streaming}
    assert name == "videoTasks/first"
    assert [set(result) for result in batch["results"]] == [{"video_task"}, {"error"}]
    assert answers["GetVideoTask"] == created
    assert len(answers["ListVideoTasks"]["video_tasks"]) == 2
    assert answers["CancelVideoTask"]["state"] == "CANCELLED"
    assert answers["ListModels"]["models"]
    assert float(answers["QuoteVideoTask"]["units"]) > 0
    assert answers["ListBudgets"] == answers["ListCallbackDeliveries"] == {}
    # Nothing is unresolved and nothing was delivered here: these two are refused, and say why.
    for method, reason in (
        ("ResolveVideoTask", "VIDEO_TASK_NOT_UNRESOLVED"),
        ("RetryCallbackDelivery", "CALLBACK_DELIVERY_NOT_FOUND"),
    ):
        assert [detail["reason"] for detail in answers[method]["details"] if "reason" in detail] == [reason]


def test_grpcurl_calls_every_method_that_streams(curl: Grpcurl) -> None:
    def stop() -> None:
        until(lambda: "streamed" in str(curl.method("ListVideoTasks").get("video_tasks")), "the task is there")
        curl.method("CancelVideoTask", name="videoTasks/streamed")

    with ThreadPoolExecutor() as threads:
        stopping = threads.submit(stop)
        generated = curl.stream("GenerateVideo", create={"video_task": SPEC, "video_task_id": "streamed"})
        stopping.result()
    watched = curl.stream("WatchVideoTasks", names=["videoTasks/streamed"], until_final=True)
    refused = curl.method("DownloadVideo", name="videoTasks/streamed")

    assert [task["state"] for task in _tasks(generated)] == ["QUEUED", "CANCELLED"]
    assert _tasks(watched) == _tasks(generated)[-1:]
    assert [detail["reason"] for detail in refused["details"] if "reason" in detail] == ["VIDEO_NOT_ARCHIVED"]
    streams = {"GenerateVideo", "WatchVideoTasks", "DownloadVideo"}
    assert streams == {method.name for method in SERVICE.methods if method.server_streaming}


def _tasks(messages: list[Any]) -> list[Any]:
    return [task for message in messages for task in message.get("video_tasks", ())]
