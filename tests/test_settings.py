from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from kling_flows.errors import ConfigurationError, CredentialsMissing
from kling_flows.settings import PREFIX, Settings, split_address
from kling_flows.upstream import ApiKeyCredentials, JwtCredentials, Provider

ROOT = Path(__file__).parents[1]

#: Values that appear nowhere else, so that a leak can be searched for.
SECRETS = {
    "KLING_API_KEY": "alpha-7261",
    "KLING_ACCESS_KEY": "bravo-7262",
    "KLING_SECRET_KEY": "charlie-7263",
    "COMETAPI_KEY": "delta-7264",
}

WriteFile = Callable[[str | bytes], Path]


@pytest.fixture(autouse=True)
def nobody_s_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("KLING_", "COMETAPI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config-home"))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteFile:
    """Write the TOML file that the environment names."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "kling-flows.toml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        monkeypatch.setenv("KLING_FLOWS_CONFIG", str(path))
        return path

    return write


def _refused(**flags: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(**flags)
    return caught.value


def test_flags_win_over_the_environment_and_that_over_the_file(
    file: WriteFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file('tenant = "file"')
    assert Settings.load().tenant == "file"
    monkeypatch.setenv("KLING_FLOWS_TENANT", "variable")
    assert Settings.load().tenant == "variable"
    assert Settings.load(tenant="flag").tenant == "flag"


@pytest.mark.parametrize("name", ["kling_api_key", "KLING_API_KEY"])
def test_keys_have_the_same_order(file: WriteFile, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def key(**flags: str) -> str:
        found = Settings.load(**flags).kling_api_key
        assert found is not None
        return found.get_secret_value()

    file(f'{name} = "file"')
    assert key() == "file"
    monkeypatch.setenv("KLING_API_KEY", "variable")
    assert key() == "variable"
    assert key(kling_api_key="flag") == "flag"


def test_a_flag_that_was_not_given_hides_nothing(file: WriteFile) -> None:
    file("poll_interval = 7")
    assert Settings.load(poll_interval=None).poll_interval == 7


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_FLOWS_TENANT", "")
    monkeypatch.setenv("KLING_API_KEY", "")
    assert Settings.load().tenant == "default"
    assert Settings.load().kling_api_key is None


def test_the_file_in_the_user_s_folder_is_read_without_being_named(tmp_path: Path) -> None:
    folder = tmp_path / "config-home" / "kling-flows"
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text('tenant = "home"')
    assert Settings.load().tenant == "home"


def test_settings_are_not_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().tenant = "other"  # type: ignore[misc]


BAD = {
    "provider": "klign",
    "poll_interval": "soon",
    "poll_interval ": 0.01,
    "tenant": "A B",
    "tenant ": "",
    "max_in_flight": 0,
    "max_queued": -1,
    "group_limit": 1001,
    "submit_concurrency": "many",
    "archive_concurrency": 0,
    "listen": 5,
}


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_a_bad_flag_is_named_and_what_would_do_is_said(name: str, value: object) -> None:
    error = _refused(**{name.strip(): value})
    assert error.setting == PREFIX + name.strip().upper()
    assert error.message.startswith(f"{error.setting}: ")
    assert "should" in error.message


@pytest.mark.parametrize(("name", "value"), [item for item in BAD.items() if item[0] != "listen"])
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setenv(PREFIX + name.strip().upper(), str(value) or " ")
    assert _refused().setting == PREFIX + name.strip().upper()


@pytest.mark.parametrize(
    ("text", "setting", "said"),
    [
        ("tenant = ", "KLING_FLOWS_CONFIG", "TOML"),
        (b'tenant = "\xff"', "KLING_FLOWS_CONFIG", "TOML"),
        ('tennant = "x"', "tennant", "no such setting"),
        ("archive = 5", "KLING_FLOWS_ARCHIVE", "string"),
        ("[tenant]\nx = 1", "KLING_FLOWS_TENANT", "string"),
        ("kling_api_key = 5", "KLING_API_KEY", "string"),
    ],
)
def test_a_bad_file_is_named(file: WriteFile, text: str | bytes, setting: str, said: str) -> None:
    path = file(text)
    error = _refused()
    assert error.setting == setting
    assert said in error.message
    if setting in ("KLING_FLOWS_CONFIG", "tennant"):
        assert str(path) in error.message


@pytest.mark.parametrize("what", ["absent.toml", ""], ids=["absent", "a folder"])
def test_a_named_file_that_is_none_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setenv("KLING_FLOWS_CONFIG", str(tmp_path / what))
    error = _refused()
    assert error.setting == "KLING_FLOWS_CONFIG"
    assert str(tmp_path / what) in error.message


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "host:80",
        "http://",
        "http://[::1",
        "http://host:99999",
        "http://host/?a=b",
        "http:// host",
        "nonsense",
    ],
)
def test_an_upstream_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(provider="sandbox", upstream_url=url).account()
    assert caught.value.setting == "KLING_FLOWS_UPSTREAM_URL"
    assert "http" in caught.value.message or "URL" in caught.value.message


@pytest.mark.parametrize("url", ["http://user:delta-7264@host", "ftp://user:delta-7264@host"])
def test_a_password_in_an_upstream_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(provider="sandbox", upstream_url=url).account()
    assert "delta-7264" not in str(caught.value)


def test_an_upstream_address_may_end_in_a_slash() -> None:
    assert Settings.load(provider="sandbox", upstream_url="http://host:1/p/").account().base_url == "http://host:1/p"


@pytest.mark.parametrize(
    ("keys", "provider", "kind"),
    [
        (("KLING_API_KEY",), Provider.KLING, ApiKeyCredentials),
        (("KLING_ACCESS_KEY", "KLING_SECRET_KEY"), Provider.KLING, JwtCredentials),
        (("COMETAPI_KEY",), Provider.COMETAPI, ApiKeyCredentials),
        (("KLING_API_KEY", "COMETAPI_KEY"), Provider.KLING, ApiKeyCredentials),
    ],
)
def test_the_provider_follows_from_the_key(
    monkeypatch: pytest.MonkeyPatch, keys: tuple[str, ...], provider: Provider, kind: type
) -> None:
    for name in keys:
        monkeypatch.setenv(name, SECRETS[name])
    account = Settings.load().account()
    assert account.provider is provider
    assert isinstance(account.credentials, kind)


def test_a_named_provider_wins_over_what_keys_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    for provider in Provider:
        assert Settings.load(provider=provider).account().provider is provider


@pytest.mark.parametrize(
    ("flags", "missing"),
    [
        ({}, "KLING_FLOWS_PROVIDER"),
        ({"provider": "kling"}, "KLING_ACCESS_KEY"),
        ({"provider": "kling", "kling_secret_key": "x"}, "KLING_ACCESS_KEY"),
        ({"provider": "kling", "kling_access_key": "x"}, "KLING_SECRET_KEY"),
        ({"kling_access_key": "x"}, "KLING_SECRET_KEY"),
        ({"provider": "cometapi", "kling_api_key": "x"}, "COMETAPI_KEY"),
    ],
)
def test_a_key_that_is_missing_is_named_and_the_way_without_one(flags: dict[str, str], missing: str) -> None:
    with pytest.raises(CredentialsMissing) as caught:
        Settings.load(**flags).account()
    assert caught.value.setting == missing
    assert "--provider sandbox" in caught.value.message


@pytest.mark.parametrize("value", ["", "two words", "zulu\n", " lead", "schlüssel", "tab\t"])
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("kling_api_key", {}),
        ("kling_access_key", {"kling_secret_key": "x"}),
        ("kling_secret_key", {"kling_access_key": "x"}),
        ("cometapi_key", {}),
    ],
)
def test_a_key_that_can_be_none_is_named_and_not_shown(name: str, others: dict[str, str], value: str) -> None:
    provider = "cometapi" if name == "cometapi_key" else "kling"
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(provider=provider, **others, **{name: value}).account()
    assert caught.value.setting == name.upper()
    assert not value.strip() or value.strip() not in caught.value.message


def test_no_text_form_shows_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    for provider in (Provider.KLING, Provider.COMETAPI):
        account = Settings.load(provider=provider).account()
        shown += [repr(account), str(account), repr(account.credentials), account.name]
    for text in shown:
        assert not any(secret in text for secret in SECRETS.values())


def test_an_error_of_a_setting_does_not_show_a_secret_that_stands_in_its_place(file: WriteFile) -> None:
    file('provider = "charlie-7263"\npoll_interval = "charlie-7263"')
    assert "charlie-7263" not in str(_refused())


def test_a_child_with_these_variables_has_these_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load(
        provider="sandbox",
        upstream_url="http://host:1",
        state_dir=tmp_path / "with blank",
        listen="[::1]:0",
        archive="s3://bucket/prefix",
        ledger_url="sqlite:////tmp/x.db",
        poll_interval=0.125,
        prefect_api_url="http://host/api",
        tenant="film",
        max_in_flight=17,
    )
    variables = settings.environment()
    for name in SECRETS:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == settings
    program = "from kling_flows.settings import Settings; print(Settings.load().environment() == %r)"
    done = subprocess.run(
        [sys.executable, "-c", program % variables],
        env={"XDG_CONFIG_HOME": str(tmp_path), **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"


def test_what_was_not_set_is_not_passed_on() -> None:
    variables = Settings.load().environment()
    assert "KLING_FLOWS_ARCHIVE" not in variables
    assert not set(variables) & set(SECRETS)


def test_addresses_follow_from_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load(state_dir="state")
    assert settings.ledger_address == f"sqlite:///{tmp_path}/state/ledger.db"
    assert settings.archive_address == f"{tmp_path}/state/archive"
    assert Settings.load(archive="videos").archive_address == f"{tmp_path}/videos"
    assert Settings.load(archive="s3://b/p").archive_address == "s3://b/p"
    assert Settings.load(archive="~/videos").archive_address == str(Path.home() / "videos")
    assert settings.prefect_address == "http://127.0.0.1:4200/api"
    assert Settings.load(prefect_api_url="https://p/api").prefect_address == "https://p/api"


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:50051", ("127.0.0.1", 50051)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, parts: tuple[str, int]) -> None:
    assert split_address("SETTING", address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host",
        "host:",
        ":1",
        "[]:1",
        "::1",
        "::1:50051",
        "[::1]",
        "host:65536",
        "host:-1",
        "host:1.5",
        "host:²",
        "host:٣",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        split_address("SETTING", address)
    assert caught.value.setting == "SETTING"
    assert repr(address) in caught.value.message
    assert "127.0.0.1:50051" in caught.value.message


def test_every_setting_says_what_it_is() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description or field.annotation == SecretStr | None, name
