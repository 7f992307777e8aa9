"""Credentials of the official surface."""

from __future__ import annotations

import time
from typing import Any

import httpx
import jwt
import pytest

from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_API_KEY, SANDBOX_SECRET_KEY

from .caller import Api, eventually, fetch


def token(secret: str = SANDBOX_SECRET_KEY, algorithm: str = "HS256", **claims: Any) -> str:
    now = int(time.time())
    everything = {"iss": SANDBOX_ACCESS_KEY, "exp": now + 1800, "nbf": now - 5, **claims}
    return jwt.encode({name: value for name, value in everything.items() if value is not None}, secret, algorithm)


def without_tokens(value: object) -> str | None:
    """A name for a parameter: a token would differ from worker to worker."""
    return "token" if str(value).startswith("Bearer ey") else None


def listed(api: Api, authorization: str | None) -> httpx.Response:
    headers = {} if authorization is None else {"authorization": authorization}
    return fetch(api.server.url + api.path, headers=headers)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_api_key_is_accepted(shared: Api, scheme: str) -> None:
    assert listed(shared, f"{scheme} {SANDBOX_API_KEY}").json()["code"] == 0


def test_token_signed_with_the_key_pair_is_accepted_every_time(shared: Api) -> None:
    authorization = f"Bearer {token()}"
    assert [listed(shared, authorization).status_code for _ in range(3)] == [200, 200, 200]


def test_token_is_refused_from_its_expiry_on_although_it_was_accepted_before(shared: Api) -> None:
    authorization = f"Bearer {token(exp=int(time.time()) + 2)}"
    assert listed(shared, authorization).status_code == 200
    refused = eventually(lambda: answer if (answer := listed(shared, authorization)).status_code != 200 else None)
    assert (refused.status_code, refused.json()["code"]) == (401, 1004)


def test_both_kinds_of_credentials_belong_to_one_account(api: Api) -> None:
    task_id = api.created()
    answer = fetch(f"{api.server.url}{api.path}/{task_id}", headers={"authorization": f"Bearer {token()}"})
    assert answer.json()["data"]["task_id"] == task_id


@pytest.mark.parametrize(
    ("authorization", "code", "text"),
    [
        (None, 1001, "Authorization is empty"),
        ("", 1001, "Authorization is empty"),
        (f"Basic {SANDBOX_API_KEY}", 1002, "Authorization is invalid"),
        ("Bearer nonsense", 1002, "The token was expected to have 3 parts, but got 0"),
        ("Bearer two.parts", 1002, "The token was expected to have 3 parts, but got 2"),
        ("Bearer a.b.c.d", 1002, "The token was expected to have 3 parts, but got > 3"),
        ("Bearer a.b.c", 1002, "Authorization is invalid"),
        ("Bearer sandbox-api-key-of-another-region", 1002, "api key not found"),
        (f"Bearer {token(iss='somebody else')}", 1002, "access key not exist"),
        (f"Bearer {token(iss=None)}", 1002, "access key not exist"),
        (f"Bearer {token(exp=None)}", 1002, "Authorization is invalid"),
        (f"Bearer {token('another secret key that is long enough')}", 1000, "signature is invalid"),
        (f"Bearer {token(SANDBOX_SECRET_KEY * 2, 'HS512')}", 1000, "signature is invalid"),
        (f"Bearer {token(nbf=4_000_000_000, exp=4_000_001_000)}", 1003, "Authorization is not yet valid"),
        (f"Bearer {token(exp=1_700_000_000)}", 1004, "Authorization has expired"),
    ],
    ids=without_tokens,
)
def test_bad_credentials_are_refused_with_code_and_text(
    shared: Api, authorization: str | None, code: int, text: str
) -> None:
    answer = listed(shared, authorization)
    body = answer.json()
    assert (answer.status_code, body["code"], body["message"]) == (401, code, text)
    assert set(body) == {"code", "message", "request_id"}


def test_nothing_is_created_without_credentials(api: Api) -> None:
    answer = fetch(api.server.url + api.path, "POST", json={"model_name": "kling-v3", "prompt": "x"})
    assert answer.status_code == 401
    assert api.server.charges() == []
