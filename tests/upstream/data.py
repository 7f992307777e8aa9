"""Fixtures and builders that the tests of this package share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from kling_flows.upstream import (
    Account,
    ApiKeyCredentials,
    Credentials,
    Dialect,
    JwtCredentials,
    Provider,
    TextToVideoRequest,
    account_name,
    parse_request,
)

FIXTURES = Path(__file__).parent / "fixtures"

ACCESS_KEY = "ak-test-7f3c9a1e55"
SECRET_KEY = "sk-test-2b8d6e4f90a1c3e5d7f9b1a3c5e7d9f1"
API_KEY = "key-test-91c4e7a2d5f8b3c6e9a1d4f7"


def load(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


def request(**fields: Any) -> TextToVideoRequest:
    return parse_request({"prompt": "A paper boat on a pond", **fields})


def jwt_credentials() -> JwtCredentials:
    return JwtCredentials(ACCESS_KEY, SecretStr(SECRET_KEY))


def api_key_credentials() -> ApiKeyCredentials:
    return ApiKeyCredentials(SecretStr(API_KEY))


def account(base_url: str, credentials: Credentials | None = None) -> Account:
    credentials = credentials or jwt_credentials()
    return Account(Provider.KLING, base_url, credentials, account_name(Provider.KLING, credentials))


def standard_account(base_url: str) -> Account:
    return Account.of(Provider.KLING, api_key_credentials(), base_url=base_url, dialect=Dialect.STANDARD)
