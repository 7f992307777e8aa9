"""Every row of the tables of errors, asked of the sandbox: each call, in each dialect, at each provider."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from pydantic import SecretStr

from grpc_server.errors import status_of
from kling_flows.errors import ConfigurationError
from kling_flows.sandbox import SandboxServer, SandboxSettings, VideoSource
from kling_flows.upstream import (
    ApiKeyCredentials,
    Credentials,
    DeductionKind,
    ErrorClass,
    JwtCredentials,
    KlingCode,
    UpstreamClient,
    UpstreamError,
    UpstreamStatus,
)
from kling_flows.upstream import errors as kinds
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_SECRET_KEY

from .data import request
from .error_rows import HTML, ROWS, STATUS, Row
from .surfaces import EVERYWHERE, KLING, LEGACY, Surface

pytestmark = pytest.mark.xdist_group("upstream-sandbox")

TINY: dict[str, Any] = {"seconds": (0.0, 0.0), "video": VideoSource.TINY, "concurrency": 0}


@pytest.fixture(scope="module")
def shared() -> Iterator[SandboxServer]:
    with SandboxServer(SandboxSettings(**TINY)) as server:
        yield server


# ------------------------------------------------------------------------------------------------- errors on demand


def since() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(days=1), now


async def list_tasks(client: UpstreamClient) -> object:
    start, end = since()
    return await client.list_tasks(start=start, end=end)


async def first_deduction(client: UpstreamClient) -> object:
    async with aclosing(client.deductions(DeductionKind.PACKAGE, *since())) as deductions:
        return [deduction async for deduction in deductions]


Call = Callable[[UpstreamClient], Awaitable[object]]

#: What the sandbox calls it, and how it is made.
CREATE: tuple[str, Call] = ("create", lambda client: client.create(request(), "ext-0001"))
CALLS: dict[str, tuple[str, Call]] = {
    "create": CREATE,
    "get": ("get", lambda client: client.get("7")),
    "get_by_ours": ("get", lambda client: client.get("ext-0001", external=True)),
    "get_many": ("get", lambda client: client.get_many(["7", "8"])),
    "list_page": ("list", lambda client: client.list_page(1, 500)),
    "list_tasks": ("list", list_tasks),
    "account_costs": ("account", lambda client: client.account_costs(*since())),
    "deductions": ("account", first_deduction),
}


def possible(surface: Surface, call: str) -> bool:
    match call:
        case "get_many" | "list_tasks":
            return surface is Surface.STANDARD
        case "list_page":
            return surface in (Surface.LEGACY_JWT, Surface.LEGACY_KEY)
        case "account_costs":
            return surface is not Surface.COMETAPI
        case "deductions":
            return surface in (Surface.LEGACY_KEY, Surface.STANDARD)
        case _:
            return True


def rule(row: Row) -> dict[str, Any] | None:
    """The fault that makes the sandbox answer a row; None for `null-data`, which a reader takes for `missing-data`."""
    asked: dict[str, Any] = {"status": row.http_status}
    match row.body:
        case {"error": {"message": message, "code": code}}:
            text = message.partition(" (request id")[0]
            return {**asked, "fault": "http_error", "message": text, **({"code": code} if code else {})}
        case {"code": 0, **rest}:
            return None if "data" in rest else {"fault": "missing_data"}
        case {"code": code, "message": message}:
            return {**asked, "fault": "http_error", "code": code, "message": message}
        case "":
            return {**asked, "fault": "empty"}
        case _:
            return {**asked, "fault": "html"}


def told(error: UpstreamError) -> tuple[str, set[str]]:
    """What a caller gets of it: the reason, and which details there are."""
    status = status_of(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "kling-flows"
    assert {"http_status": str(error.http_status)}.items() <= dict(info.metadata).items()
    return info.reason, {detail.TypeName() for detail in status.details}


@pytest.mark.parametrize(
    ("surface", "call"), [(surface, call) for surface in EVERYWHERE for call in CALLS if possible(surface, call)]
)
async def test_every_row_comes_as_its_class_with_its_status_and_its_advice(
    shared: SandboxServer, surface: Surface, call: str
) -> None:
    operation, make = CALLS[call]
    seen = 0
    async with UpstreamClient(surface.account(shared)) as client:
        for row in ROWS:
            fault = rule(row)
            # Only CometAPI answers in its own envelope.
            if fault is None or ("error" in row.body and surface is not Surface.COMETAPI):
                continue
            shared.set_faults([{**fault, "on": operation, "accept": "no" if call == "create" else None}])
            with pytest.raises(UpstreamError) as caught:
                await make(client)
            error, creating = caught.value, call == "create"
            assert type(error) is ((creating and row.create) or row.read), row.name
            # The sandbox words a gateway's page itself.
            if row.body != HTML:
                assert ((creating and row.create_says) or row.says) in error.message, row.name
            assert (error.http_status, error.grpc_code) == (row.http_status, STATUS[error.error_class]), row.name
            reason, details = told(error)
            assert reason == type(error).reason
            # What is ambiguous must not simply be sent again, and is looked up by us.
            if error.error_class is not ErrorClass.AMBIGUOUS:
                assert (RetryInfo.DESCRIPTOR.full_name in details) is error.retryable, row.name
            seen += 1
    shared.set_faults([])
    assert seen >= len(KlingCode) - 1
    assert shared.charges() == []


@pytest.mark.parametrize("surface", EVERYWHERE)
@pytest.mark.parametrize("code", [1302, 1303, 5001])
async def test_the_wish_to_wait_reaches_whoever_waits(shared: SandboxServer, surface: Surface, code: int) -> None:
    shared.set_faults([{"fault": "http_error", "on": "get", "code": code, "retry_after": 7}])
    async with UpstreamClient(surface.account(shared)) as client:
        with pytest.raises(UpstreamError) as caught:
            await client.get("7")
    shared.set_faults([])
    assert (caught.value.retry_after, caught.value.retry_delay) == (7.0, 7.0)


@pytest.mark.parametrize("surface", EVERYWHERE)
@pytest.mark.parametrize("code", [KlingCode.AUTH_NOT_YET_VALID, KlingCode.AUTH_EXPIRED])
async def test_a_token_is_signed_anew_once_and_a_key_is_not(
    shared: SandboxServer, surface: Surface, code: KlingCode
) -> None:
    shared.set_faults([{"fault": "http_error", "on": "get", "code": int(code), "times": 1}])
    async with UpstreamClient(surface.account(shared)) as client:
        with pytest.raises(UpstreamError) as caught:
            await client.get("7")
    shared.set_faults([])
    assert caught.value.error_class is (ErrorClass.NOT_FOUND if surface is Surface.LEGACY_JWT else ErrorClass.AUTH)


# ---------------------------------------------------------------------------------------- what it refuses of its own


@dataclass(frozen=True)
class Case:
    """What a sandbox with ``settings`` refuses without any fault: the last of ``calls``."""

    name: str
    kind: type[UpstreamError]
    says: str
    calls: tuple[Call, ...]
    surfaces: tuple[Surface, ...] = EVERYWHERE
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    path: str = ""
    credentials: Credentials | None = None


def create(external_task_id: str = "ext-0001", **fields: Any) -> Call:
    return lambda client: client.create(request(**fields), external_task_id)


def key(text: str) -> Credentials:
    return ApiKeyCredentials(SecretStr(text))


GET: Call = CALLS["get"][1]
COSTS: Call = CALLS["account_costs"][1]
CAMERA = {"type": "simple", "config": {"zoom": 1}}
CASES = [
    Case("key", kinds.UpstreamAuth, "expected to have 3 parts", (GET,), LEGACY[:2], credentials=key("other")),
    Case("key", kinds.UpstreamAuth, "api key not found", (GET,), (Surface.STANDARD,), credentials=key("other")),
    Case("key", kinds.UpstreamAuth, "invalid token", (GET,), (Surface.COMETAPI,), credentials=key("other")),
    Case(
        "secret",
        kinds.UpstreamAuth,
        "signature is invalid",
        (GET,),
        (Surface.LEGACY_JWT,),
        credentials=JwtCredentials(SANDBOX_ACCESS_KEY, SecretStr("another-secret-key-of-some-length-0001")),
    ),
    Case(
        "access-key",
        kinds.UpstreamAuth,
        "access key not exist",
        (GET,),
        (Surface.LEGACY_JWT,),
        credentials=JwtCredentials("another", SecretStr(SANDBOX_SECRET_KEY)),
    ),
    Case("no-key", kinds.UpstreamAuth, "Use an API key", (CALLS["deductions"][1],), (Surface.LEGACY_JWT,)),
    Case("no-task", kinds.UpstreamNotFound, "no task of that id", (GET,)),
    Case("no-task-of-ours", kinds.UpstreamNotFound, "no task of that id", (CALLS["get_by_ours"][1],)),
    Case("duplicate", kinds.UpstreamAlreadyExists, "adopt it", (create(), create(prompt="another"))),
    Case("discontinued", kinds.UpstreamInvalid, "Use one that answers", (create(model_name="kling-v1"),), LEGACY),
    Case(
        "discontinued",
        kinds.UpstreamInvalid,
        "Use one that answers",
        (create(),),
        (Surface.STANDARD,),
        {"discontinued_models": frozenset({"kling-3.0"})},
    ),
    Case("model", kinds.UpstreamInvalid, "model is not supported", (create(model_name="kling-v3-omni"),), LEGACY),
    Case("camera", kinds.UpstreamInvalid, "std mode with 5s", (create(camera_control=CAMERA),), LEGACY),
    Case("content", kinds.UpstreamPolicy, "Change the prompt", (create(prompt="[sandbox:reject]"),)),
    Case("units", kinds.UpstreamBilling, "Buy a resource pack", (create(),), settings={"units": 1}),
    Case(
        "slots",
        kinds.UpstreamConcurrency,
        "when a task has ended",
        (create(), create("ext-0002")),
        settings={"concurrency": 1, "seconds": (60.0, 60.0)},
    ),
    Case("too-fast", kinds.UpstreamThrottled, "Try again later", (COSTS, COSTS), KLING, {"limit_costs": True}),
    Case("path", kinds.UpstreamInvalid, "does not exist", (create(),), KLING, path="/elsewhere"),
    Case("path", kinds.UpstreamInvalid, "ends in /kling", (create(),), (Surface.COMETAPI,), path="/elsewhere"),
]


@pytest.mark.parametrize(
    ("case", "surface"),
    [
        pytest.param(case, surface, id=f"{case.name}-{surface.value}")
        for case in CASES
        for surface in EVERYWHERE
        if surface in case.surfaces
    ],
)
async def test_what_the_sandbox_refuses_without_being_told_to(case: Case, surface: Surface) -> None:
    with SandboxServer(SandboxSettings(**{**TINY, **case.settings})) as server:
        async with UpstreamClient(surface.account(server, case.credentials, case.path)) as client:
            for make in case.calls[:-1]:
                await make(client)
            paid = len(server.charges())
            with pytest.raises(UpstreamError) as caught:
                await case.calls[-1](client)
        assert type(caught.value) is case.kind
        assert case.says in caught.value.message
        assert len(server.charges()) == paid


async def test_a_clock_that_is_wrong_costs_one_more_call_and_nothing_else(shared: SandboxServer) -> None:
    for wrong in (-7200.0, 7200.0):
        now = datetime.now(UTC).timestamp() + wrong

        def clock(now: float = now) -> float:
            return now

        async with UpstreamClient(Surface.LEGACY_JWT.account(shared), clock=clock) as client:
            assert await client.list_page(1, 1) == ()


def test_a_signed_token_is_refused_for_the_standard_dialect_before_it_is_sent(shared: SandboxServer) -> None:
    with pytest.raises(ConfigurationError, match="takes an API key only") as caught:
        Surface.STANDARD.account(shared, JwtCredentials(SANDBOX_ACCESS_KEY, SecretStr(SANDBOX_SECRET_KEY)))
    assert caught.value.setting == "dialect"


# --------------------------------------------------------------------------------------- what only looks like an error


async def ended(client: UpstreamClient, task_id: str) -> Any:
    async with asyncio.timeout(60):
        while not (task := await client.get(task_id)).status.final:
            await asyncio.sleep(0.01)
    return task


@pytest.mark.parametrize("surface", EVERYWHERE)
async def test_a_task_that_failed_comes_with_a_success_and_says_why(surface: Surface) -> None:
    with SandboxServer(SandboxSettings(**TINY)) as server:
        server.set_faults([{"fault": "fail", "message": "Image pixel is invalid"}])
        async with UpstreamClient(surface.account(server)) as client:
            task = await ended(client, (await client.create(request(), "ext-0001")).task_id)
        assert (task.status, task.status_message) == (UpstreamStatus.FAILED, "Image pixel is invalid")
        assert (task.unit_deduction, [charge["refunded"] for charge in server.charges()]) == (None, [True])


@pytest.mark.parametrize("surface", EVERYWHERE)
async def test_a_success_can_be_without_a_url_for_a_moment_and_a_word_can_be_unknown(surface: Surface) -> None:
    with SandboxServer(SandboxSettings(**TINY)) as server:
        async with UpstreamClient(surface.account(server)) as client:
            task_id = (await client.create(request(), "ext-0001")).task_id
            whole = await ended(client, task_id)
            server.set_faults(
                [
                    {"fault": "succeed_without_url", "times": 1},
                    {"fault": "unknown_status", "message": "odd", "times": 1},
                ]
            )
            bare, odd, again = [await client.get(task_id) for _ in range(3)]
    assert (bare.status, bare.videos) == (UpstreamStatus.SUCCEEDED, ())
    assert (odd.status, odd.status.final, odd.status_word) == (UpstreamStatus.UNKNOWN, False, "odd")
    assert again.videos[0].id == whole.videos[0].id
    assert again.videos[0].url
