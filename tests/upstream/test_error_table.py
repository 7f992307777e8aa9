"""Every row of the published tables, as it comes over the wire: create and query, in either dialect."""

from __future__ import annotations

from typing import Any

import pytest

from kling_flows.upstream import Account, KlingCode, UpstreamClient, UpstreamError, UpstreamStatus

from .data import account, api_key_credentials, load, request, standard_account
from .error_rows import ROWS, STATUS, Row
from .server import answer, serve


def jwt_account(base_url: str) -> Account:
    return account(base_url)


def key_account(base_url: str) -> Account:
    return account(base_url, api_key_credentials())


@pytest.mark.asyncio
@pytest.mark.parametrize("make", [jwt_account, key_account, standard_account])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_row(row: Row, make: Any) -> None:
    # Two for each call: a token that has expired is signed anew once.
    replies = [answer(row.http_status, row.body)] * 4
    async with serve(*replies) as server, UpstreamClient(make(server.base_url)) as upstream:
        with pytest.raises(UpstreamError) as on_read:
            await upstream.get("7")
        with pytest.raises(UpstreamError) as on_create:
            await upstream.create(request(), "ext-0001")
    assert type(on_read.value) is row.read
    assert row.says in on_read.value.message
    assert type(on_create.value) is (row.create or row.read)
    assert (row.create_says or row.says) in on_create.value.message
    for error in (on_read.value, on_create.value):
        assert error.grpc_code == STATUS[error.error_class]
        assert error.http_status == row.http_status
        assert f"HTTP {row.http_status}" in error.message
        assert error.message.endswith(".")


def test_every_code_has_a_row() -> None:
    named = {row.body["code"] for row in ROWS if isinstance(row.body, dict) and "code" in row.body}
    assert {code.value for code in KlingCode if code is not KlingCode.OK} <= named


# ------------------------------------------------------------------------------ what is no error although it looks so


@pytest.mark.asyncio
async def test_task_that_failed_is_a_task_not_an_error() -> None:
    legacy = load("official_query_failed_image_invalid.json")
    standard = {"code": 0, "message": "SUCCEED", "data": [{"id": "7", "status": "failed", "message": "Image pixel"}]}
    task_id = legacy["data"]["task_id"]
    async with serve(answer(200, legacy), answer(200, standard)) as server:
        async with UpstreamClient(account(server.base_url)) as upstream:
            first = await upstream.get(task_id)
        async with UpstreamClient(standard_account(server.base_url)) as upstream:
            second = await upstream.get("7")
    assert (first.status, first.status_message) == (UpstreamStatus.FAILED, "Image pixel is invalid")
    assert (second.status, second.status_message) == (UpstreamStatus.FAILED, "Image pixel")


@pytest.mark.asyncio
async def test_success_without_a_url_is_a_task_without_videos() -> None:
    legacy = {"code": 0, "data": {"task_id": "7", "task_status": "succeed", "task_result": {}}}
    standard = {"code": 0, "data": [{"id": "7", "status": "succeeded", "outputs": []}]}
    async with serve(answer(200, legacy), answer(200, standard)) as server:
        for made in (account(server.base_url), standard_account(server.base_url)):
            async with UpstreamClient(made) as upstream:
                task = await upstream.get("7")
            assert (task.status, task.videos) == (UpstreamStatus.SUCCEEDED, ())


# ----------------------------------------------------------------------------------------- what a facade makes of them


@pytest.mark.parametrize("kind", UpstreamError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_only_what_may_be_repeated_has_a_delay(kind: type[UpstreamError]) -> None:
    error = kind("x")
    assert (error.retry_delay is not None) is error.retryable
    assert error.retry_delay is None or error.retry_delay >= 1
    asked = kind("x", retry_after=7.0)
    assert asked.retry_delay == (7.0 if asked.retryable else None)


@pytest.mark.parametrize("kind", UpstreamError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_only_what_runs_out_is_a_matter_of_quota(kind: type[UpstreamError]) -> None:
    subject = {"billing": "account:units", "concurrency": "account:concurrent-tasks"}.get(kind.error_class)
    error = kind("what ran out")
    assert error.quota_subject == subject
