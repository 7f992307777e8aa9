"""The protos' comments are enough to write a client: every status and reason stands beside its RPC.

Besides what is here, every refusal that any test of this folder meets has to be documented; see conftest.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf.message import Message

from grpc_server.interceptors import SCOPES
from kling_flows.errors import KlingFlowsError, LedgerUnavailable
from kling_flows.ledger import Ledger
from kling_flows.settings import Budget
from kling_flows.v1 import video_task_service_pb2 as rpc

from .documented import Ending, documented, scopes
from .rig import Rig, Served, create_request, refused

METHODS = [method.name for method in rpc.DESCRIPTOR.services_by_name["VideoTaskService"].methods]

#: Requests that get as far as the ledger.
ASKING: Mapping[str, Message] = {
    "CreateVideoTask": create_request(),
    "BatchCreateVideoTasks": rpc.BatchCreateVideoTasksRequest(requests=[create_request()]),
    "GenerateVideo": rpc.GenerateVideoRequest(create=create_request()),
    "DownloadVideo": rpc.DownloadVideoRequest(name="videoTasks/a"),
    "GetVideoTask": rpc.GetVideoTaskRequest(name="videoTasks/a"),
    "ListVideoTasks": rpc.ListVideoTasksRequest(),
    "CancelVideoTask": rpc.CancelVideoTaskRequest(name="videoTasks/a"),
    "ResolveVideoTask": rpc.ResolveVideoTaskRequest(name="videoTasks/a", abandon=True),
    "WatchVideoTasks": rpc.WatchVideoTasksRequest(),
    "ListBudgets": rpc.ListBudgetsRequest(),
    "ListCallbackDeliveries": rpc.ListCallbackDeliveriesRequest(),
    "RetryCallbackDelivery": rpc.RetryCallbackDeliveryRequest(name="callbackDeliveries/1"),
}

LEDGER_METHODS = [
    name
    for name, _ in inspect.getmembers(Ledger, inspect.iscoroutinefunction)
    if not name.startswith("_") and name not in ("open", "close")
]


def _tree(root: type[KlingFlowsError]) -> Iterator[type[KlingFlowsError]]:
    for child in root.__subclasses__():
        yield child
        yield from _tree(child)


#: What every method can end with, whatever it does.
EVERYWHERE: frozenset[Ending] = frozenset(
    {
        ("INVALID_ARGUMENT", "INVALID_REQUEST"),
        ("RESOURCE_EXHAUSTED", "RATE_LIMITED"),
        ("UNAUTHENTICATED", "CREDENTIALS_REJECTED"),
        ("PERMISSION_DENIED", "PERMISSION_MISSING"),
        ("UNAVAILABLE", "SERVER_UNAVAILABLE"),
        ("INTERNAL", "INTERNAL"),
    }
)


def test_every_method_is_documented() -> None:
    assert set(documented()) == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_documented_is_what_the_errors_are(method: str) -> None:
    known = {(kind.grpc_code, kind.reason) for kind in _tree(KlingFlowsError)} | EVERYWHERE
    assert documented()[method] >= EVERYWHERE
    assert documented()[method] <= known


@pytest.mark.parametrize("method", METHODS)
def test_the_scope_that_is_documented_is_the_one_that_is_asked_for(method: str) -> None:
    assert scopes()[method] == SCOPES[method]


@pytest.mark.parametrize("method", METHODS)
async def test_a_ledger_that_is_away_is_told_as_documented_by_every_method_that_needs_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    served = await rig.serve(budgets=[Budget(units=Decimal(100))])

    async def away(*_: object, **__: object) -> Any:
        raise LedgerUnavailable("the disk is gone")

    with monkeypatch.context() as outage:
        for name in LEDGER_METHODS:
            outage.setattr(served.ledger, name, away)
        needed = ("UNAVAILABLE", "LEDGER_UNAVAILABLE") in documented()[method]
        assert needed is (method in ASKING)
        if needed:
            refusal = await refused(_first(served, method))
            assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "LEDGER_UNAVAILABLE")
            assert refusal.retry_seconds == 1.0


async def _first(served: Served, method: str) -> Any:
    call = getattr(served.stub, method)(ASKING[method])
    return await (call.read() if hasattr(call, "read") else call)
