from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import pytest
from pydantic import SecretStr

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import ApiKeyCredentials, JwtCredentials
from kling_flows.upstream.auth import RENEW_BEFORE_END

from .data import ACCESS_KEY, API_KEY, SECRET_KEY, api_key_credentials, jwt_credentials, load

NOW = 1_773_000_000.0


def part(authorization: str, number: int) -> dict[str, Any]:
    text = authorization.removeprefix("Bearer ").split(".")[number]
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def test_token_equals_the_vector_byte_for_byte() -> None:
    vector = load("jwt_synthetic_vector.json")
    credentials = JwtCredentials(vector["access_key"], SecretStr(vector["secret_key"]))
    assert credentials.authorization(vector["now"]) == f"Bearer {vector['token']}"


def test_token_has_the_three_claims_and_no_other() -> None:
    authorization = jwt_credentials().authorization(NOW + 0.9)
    assert part(authorization, 0) == {"alg": "HS256", "typ": "JWT"}
    assert part(authorization, 1) == {"iss": ACCESS_KEY, "exp": NOW + 1800, "nbf": NOW - 5}


def test_token_is_kept_until_it_nears_its_end() -> None:
    credentials = jwt_credentials()
    first = credentials.authorization(NOW)
    assert credentials.authorization(NOW + 1800 - RENEW_BEFORE_END - 1) == first
    assert credentials.authorization(NOW + 1800 - RENEW_BEFORE_END) != first


def test_token_is_replaced_when_the_clock_was_set_back() -> None:
    credentials = jwt_credentials()
    credentials.authorization(NOW)
    assert part(credentials.authorization(NOW - 3600), 1)["nbf"] == NOW - 3605


def test_invalidate_makes_the_next_token_a_new_one() -> None:
    credentials = jwt_credentials()
    first = credentials.authorization(NOW)
    assert credentials.invalidate()
    assert credentials.authorization(NOW + 1) != first


def test_short_secret_key_is_not_commented_on() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        JwtCredentials("ak", SecretStr("short")).authorization(NOW)


def test_api_key_is_sent_as_it_is_and_cannot_be_renewed() -> None:
    credentials = api_key_credentials()
    assert credentials.authorization(NOW) == f"Bearer {API_KEY}"
    assert not credentials.invalidate()


@pytest.mark.parametrize("key", ["", "qwerty\n", " qwerty", "Bearer qwerty", "schlüssel", "a\x00b"])
def test_unusable_key_is_refused_without_being_shown(key: str) -> None:
    for setting, make in (
        ("api_key", lambda: ApiKeyCredentials(SecretStr(key))),
        ("access_key", lambda: JwtCredentials(key, SecretStr(SECRET_KEY))),
        ("secret_key", lambda: JwtCredentials(ACCESS_KEY, SecretStr(key))),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make()
        assert caught.value.setting == setting
        assert not key or key not in caught.value.message


def test_fingerprint_names_the_key_and_outlives_a_new_secret() -> None:
    one = JwtCredentials("ak-1", SecretStr("secret-1"))
    assert one.fingerprint == JwtCredentials("ak-1", SecretStr("secret-2")).fingerprint
    assert one.fingerprint != JwtCredentials("ak-2", SecretStr("secret-1")).fingerprint
    assert len(api_key_credentials().fingerprint) == 8
