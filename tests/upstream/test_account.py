from __future__ import annotations

import re

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.upstream import DEFAULT_BASE_URLS, REGIONS, Account, Dialect, Provider, account_name, base_url_of
from kling_flows.upstream.constants import SANDBOX_API_KEY, SANDBOX_SECRET_KEY

from .data import account, api_key_credentials, jwt_credentials


def test_name_is_stable_and_tells_provider_and_key_apart() -> None:
    name = account_name(Provider.KLING, jwt_credentials())
    assert re.fullmatch(r"kling:[0-9a-f]{8}", name)
    assert name == account_name(Provider.KLING, jwt_credentials())
    assert name != account_name(Provider.SANDBOX, jwt_credentials())
    assert name != account_name(Provider.KLING, api_key_credentials())


@pytest.mark.parametrize("provider", list(Provider))
def test_account_stands_at_its_providers_default_url(provider: Provider) -> None:
    made = Account.of(provider, api_key_credentials())
    assert made.base_url == DEFAULT_BASE_URLS[provider]
    assert made.dialect is Dialect.LEGACY


def test_account_can_stand_at_another_url() -> None:
    url = "https://api-beijing.klingai.com"
    assert Account.of(Provider.KLING, jwt_credentials(), base_url=url).base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.klingai.com",
        "ftp://host",
        "https://",
        "https://user:pw@host",
        "https://host:0",
        "https://host:x",
        "https://host/?a=b",
        "https://host/#x",
        "https://host/\nx",
        "https://ho st",
        "https://[1",
    ],
)
def test_unusable_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url"):
        account(url)


def test_account_needs_a_name() -> None:
    with pytest.raises(ConfigurationError, match="name"):
        Account(Provider.KLING, "https://host", jwt_credentials(), "")


def test_sandbox_credentials_are_usable_with_hs256() -> None:
    assert len(SANDBOX_SECRET_KEY.encode()) >= 32
    assert SANDBOX_API_KEY


# ---------------------------------------------------------------------------------------------------------- dialects


@pytest.mark.parametrize("provider", [Provider.KLING, Provider.SANDBOX])
def test_account_can_speak_the_standard_dialect_with_an_api_key(provider: Provider) -> None:
    made = Account.of(provider, api_key_credentials(), dialect=Dialect.STANDARD)
    assert made.dialect is Dialect.STANDARD
    assert made.name == Account.of(provider, api_key_credentials()).name


def test_standard_dialect_takes_no_jwt() -> None:
    with pytest.raises(ConfigurationError, match=r"API key.*legacy dialect") as caught:
        Account.of(Provider.KLING, jwt_credentials(), dialect=Dialect.STANDARD)
    assert caught.value.setting == "dialect"


def test_cometapi_speaks_the_legacy_dialect_only() -> None:
    with pytest.raises(ConfigurationError, match="use 'legacy'") as caught:
        Account.of(Provider.COMETAPI, api_key_credentials(), dialect=Dialect.STANDARD)
    assert caught.value.setting == "dialect"


# ----------------------------------------------------------------------------------------------------------- regions


@pytest.mark.parametrize(("region", "url"), REGIONS.items())
def test_kling_has_regions(region: str, url: str) -> None:
    assert base_url_of(Provider.KLING, region) == url


@pytest.mark.parametrize("provider", list(Provider))
def test_without_a_region_the_providers_default_is_taken(provider: Provider) -> None:
    assert base_url_of(provider, None) == DEFAULT_BASE_URLS[provider]


def test_unknown_region_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(ConfigurationError, match=r"singapore, beijing, global") as caught:
        base_url_of(Provider.KLING, "frankfurt")
    assert caught.value.setting == "region"


@pytest.mark.parametrize("provider", [Provider.COMETAPI, Provider.SANDBOX])
def test_only_kling_has_regions(provider: Provider) -> None:
    with pytest.raises(ConfigurationError, match="only kling has regions"):
        base_url_of(provider, "singapore")
