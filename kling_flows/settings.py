"""The one settings object. Command-line flags win over ``KLING_FLOWS_*`` variables, these over a TOML file."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import platformdirs
from pydantic import AfterValidator, AliasChoices, BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from kling_flows.errors import ConfigurationError, CredentialsMissing
from kling_flows.upstream import (
    Account,
    ApiKeyCredentials,
    JwtCredentials,
    Provider,
    account_name,
    base_url_of,
    lay_over_capabilities,
    lay_over_prices,
)
from kling_flows.upstream.auth import Credentials
from kling_flows.upstream.constants import SANDBOX_ACCESS_KEY, SANDBOX_API_KEY, SANDBOX_SECRET_KEY, Dialect

PREFIX = "KLING_FLOWS_"

#: Names the TOML file; without it the file in the user's configuration folder is read, if it exists.
CONFIG_VARIABLE = "KLING_FLOWS_CONFIG"


class Budget(BaseModel):
    """The most that may be reserved and spent; a limit that is None does not exist.

    Args:
        tenant: Whose; ``*``: all tenants together.
        account: Which account at the provider (`Account.name`); ``*``: all together.
        period: What it covers: all time, or the current month or day (UTC) by the tasks' creation.
        units: Limit in video units.
        usd: Limit in US dollars at list price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: str = "*"
    account: str = "*"
    period: Literal["total", "month", "day"] = "month"
    units: Annotated[Decimal, Field(ge=0)] | None = None
    usd: Annotated[Decimal, Field(ge=0)] | None = None

    @property
    def name(self) -> str:
        """For people and for ``google.rpc.QuotaFailure``."""
        return f"tenant:{self.tenant}/account:{self.account}/{self.period}"


def _key(name: str, description: str) -> Any:
    return Field(None, validation_alias=AliasChoices(name, name.lower()), description=description)


class Settings(BaseSettings):
    """Everything that can be set. Field ``x`` is ``KLING_FLOWS_X`` in the environment and ``x`` in the file."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, populate_by_name=True
    )

    provider: Provider | None = Field(None, description="Who is called: kling, cometapi or sandbox.")
    upstream_url: str | None = Field(None, description="Overrides the provider's host.")
    region: str | None = Field(
        None, description="Kling's region that the key belongs to: singapore (the default), beijing, or global."
    )
    dialect: Dialect = Field(
        Dialect.LEGACY,
        description="The provider's API generation for new tasks: legacy, or standard, which takes an API key only.",
    )
    capabilities: Annotated[Path | None, AfterValidator(lay_over_capabilities)] = Field(
        None,
        description="TOML file of what is known better of models, providers and dialects than the capabilities.toml of "
        "the package: the same tables, and of them only what differs, each with its source and as_of.",
    )
    prices: Annotated[Path | None, AfterValidator(lay_over_prices)] = Field(
        None,
        description="The same for prices.toml, such as what a unit of one's own pack costs: [unit] with usd, source "
        "and as_of.",
    )
    state_dir: Path = Field(
        Path(platformdirs.user_state_dir("kling-flows", appauthor=False)),
        description="Folder of the ledger, the local Prefect server's data and, by default, the archive.",
    )
    listen: str = Field(
        "127.0.0.1:50051", description="Where gRPC is served and called: host:port, or unix:<path> of a socket."
    )
    fronts: Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Processes that serve gRPC at one address; more of them use more cores. Limits of a tenant are of "
        "each process.",
    )
    archive: str | None = Field(None, description="Folder or URL of the archive; <state-dir>/archive by default.")
    archive_options: dict[str, SecretStr] = Field(
        {},
        description="Options of the archive's storage, as JSON, by obstore's names; for example "
        '{"aws_access_key_id": "...", "aws_region": "..."}. By default the storage\'s own variables and files.',
    )
    ledger_url: SecretStr | None = Field(
        None,
        description="sqlite:///<file>, or postgresql://<user>@<host>/<database> with the password in PGPASSWORD or "
        "PGPASSFILE; <state-dir>/ledger.db by default.",
    )
    poll_interval: Annotated[float, Field(ge=0.05, le=3600)] = Field(
        3.0,
        description="Seconds between two looks at a task at the provider. Where one call shows more than a hundred "
        "tasks, looks come sooner, down to 1.5 s.",
    )
    prefect_api_url: str | None = Field(None, description="Use this Prefect server instead of a local one.")
    prefect_listen: str = Field("127.0.0.1:4200", description="Where the local Prefect server listens: host:port.")
    dispatch: Literal["in-process", "work-pool"] = Field(
        "in-process",
        description="Where a runner has video tasks carried: by flow runs in its own process, or by the workers of a "
        "work pool, as flow runs of work_pool_deployment.",
    )
    work_pool_deployment: str = Field(
        "text-to-video/on-demand",
        pattern=r"^[^/]+/[^/]+$",
        description="The deployment of text_to_video, as flow/deployment, that dispatch work-pool starts.",
    )
    prefect_events: bool = Field(
        True, description="Tell Prefect of state changes, for its automations: ends always, the rest while calm."
    )
    prefect_artifacts: Literal["off", "result", "progress"] = Field(
        "progress",
        description="What a flow run shows of its videos: nothing, the result, or the progress as well. Each costs "
        "Prefect's server some CPU.",
    )
    prefect_progress_seconds: Annotated[float, Field(ge=1)] | None = Field(
        None, description="Seconds between two updates of a progress artifact; by default on a state change only."
    )
    tenant: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="Whose tasks these are.")
    max_in_flight: Annotated[int, Field(ge=1, le=100_000)] = Field(
        5_000, description="Most video tasks that one runner carries at a time."
    )
    max_queued: Annotated[int, Field(ge=1)] = Field(
        100_000, description="Most video tasks that may wait; further creates are refused."
    )
    group_limit: Annotated[int, Field(ge=1, le=1_000)] = Field(
        200, description="Most video tasks that share one flow run while they queue up."
    )
    submit_concurrency: Annotated[int, Field(ge=1, le=1_000)] = Field(
        8, description="Most requests that create a task at the provider at a time."
    )
    archive_concurrency: Annotated[int, Field(ge=1, le=1_000)] = Field(
        4, description="Most videos that are copied into the archive at a time."
    )

    slots: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Most tasks of one model that run at the provider at a time; by default what its refusals teach.",
    )
    budgets: tuple[Budget, ...] = Field(
        (), description="Limits of what may be spent; [[budgets]] in the file: tenant, account, period, units, usd."
    )
    result_retention: Annotated[float, Field(gt=0)] = Field(
        30 * 86_400.0,
        description="Seconds after which the provider deletes a video; what could not be archived by then is LOST.",
    )
    token: SecretStr | None = Field(None, description="Bearer token that the command line calls a server with.")
    server_tls: bool = Field(False, description="The command line calls over TLS, with a certificate known to all.")
    server_ca: Path | None = Field(
        None, description="PEM file of the authority of the server's certificate; the command line then calls over TLS."
    )
    client_cert: Path | None = Field(None, description="PEM file of the command line's own certificate (mTLS).")
    client_key: Path | None = Field(None, description="PEM file of that certificate's key.")
    access_file: Path | None = Field(
        None, description="TOML file of the tokens and certificates that may call gRPC; needed beyond loopback."
    )
    tls_cert: Path | None = Field(None, description="PEM file of the server's certificate chain; with tls_key.")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, without a password.")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of the authority that client certificates must be of (mTLS)."
    )
    insecure: bool = Field(
        False, description="Serve beyond loopback without TLS, for example behind a proxy that ends it."
    )
    create_rate: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="Most creates a second of one tenant, after a burst of ten seconds' worth; unlimited if unset.",
    )
    max_calls: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most calls of one tenant at a time, watches apart; unlimited if unset."
    )
    max_watches: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most streams of one tenant at a time; unlimited if unset."
    )
    channelz: bool = Field(
        False,
        description="Serve grpc.channelz, which shows sockets and streams as gRPC sees them, to callers with the scope "
        "admin; needs the extra channelz.",
    )
    http_listen: str | None = Field(
        None,
        description="Where HTTP is served, for the provider's callbacks, metrics and the web console: host:port; not "
        "at all by default.",
    )
    console: bool = Field(True, description="Serve the web console too where HTTP is served.")
    runner_metrics_listen: str | None = Field(
        None,
        description="Where a runner serves its metrics: host:port on loopback, port 0 for any; not at all by default.",
    )
    callback_base_url: str | None = Field(
        None,
        description="Public URL under which the provider reaches http_listen; with it the provider calls instead of "
        "being asked all the time.",
    )
    callback_secrets: tuple[SecretStr, ...] = Field(
        (), description="whsec_... secrets that the provider signs its callbacks with; two while they are rotated."
    )
    webhook_secret: SecretStr | None = Field(
        None, description="whsec_... secret that calls to the callers' own callback_url are signed with."
    )

    kling_api_key: SecretStr | None = _key("KLING_API_KEY", "A static API key of Kling.")
    kling_access_key: SecretStr | None = _key("KLING_ACCESS_KEY", "Kling's access key; goes with the secret key.")
    kling_secret_key: SecretStr | None = _key("KLING_SECRET_KEY", "Kling's secret key.")
    cometapi_key: SecretStr | None = _key("COMETAPI_KEY", "A key of CometAPI.")

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Read the settings; flags that are None were not given.

        Raises:
            ConfigurationError: one is malformed; the message names it.
        """
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                raise ConfigurationError(name, f"no such setting; it stands in {configuration_file()}") from None
            shown = name.upper() if name.upper() in _KEY_NAMES else PREFIX + name.upper()
            raise ConfigurationError(shown, first["msg"]) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, TOML file, in this order."""
        file = configuration_file()
        if not file.is_file():
            if CONFIG_VARIABLE in os.environ:
                what = "is not a file" if file.exists() else "does not exist"
                raise ConfigurationError(CONFIG_VARIABLE, f"{file} {what}; name the TOML file, or unset it")
            return init_settings, env_settings
        try:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(CONFIG_VARIABLE, f"{file} cannot be read as TOML: {error}") from None

    @property
    def prefect_address(self) -> str:
        """The API URL of the Prefect server."""
        return self.prefect_api_url or f"http://{self.prefect_listen}/api"

    @property
    def ledger_address(self) -> str:
        """The ledger's URL, which may hold a password."""
        named = None if self.ledger_url is None else self.ledger_url.get_secret_value()
        return named or f"sqlite:///{self.state_dir.absolute() / 'ledger.db'}"

    @property
    def archive_address(self) -> str:
        """The archive's URL or absolute folder."""
        archive = self.archive or str(self.state_dir / "archive")
        return archive if "://" in archive else str(Path(archive).expanduser().absolute())

    @property
    def archive_config(self) -> dict[str, str] | None:
        """The storage's options as obstore takes them; None if there are none."""
        return {name: value.get_secret_value() for name, value in self.archive_options.items()} or None

    def account(self) -> Account:
        """The account that new tasks are submitted with.

        Raises:
            CredentialsMissing: no provider is named, or its key is missing.
            ConfigurationError: ``upstream_url`` is not an http address, or region or dialect do not go with the
                provider or its key.
        """
        provider = self._provider()
        with _named_as_set():
            base_url = (self.upstream_url or base_url_of(provider, self.region)).rstrip("/")
            credentials = self._credentials(provider, self.dialect)
            return Account.of(provider, credentials, base_url=base_url, dialect=self.dialect)

    def account_of(self, *, provider: str, account: str, base_url: str, dialect: str) -> Account | None:
        """The account that an earlier task was submitted with, if its credentials are still set; None if they are not.

        Args:
            provider: Whose; also another one than new tasks are submitted to.
            account: The account's name, which says whose credentials they were.
            base_url: Where it was submitted.
            dialect: How.

        Raises:
            ConfigurationError: the credentials are set and cannot be used.
        """
        for known, credentials in self._all_credentials():
            if known == provider and account_name(known, credentials) == account:
                with _named_as_set():
                    return Account(known, base_url, credentials, account, Dialect(dialect))
        return None

    def _provider(self) -> Provider:
        if self.provider is not None:
            return self.provider
        if self.kling_api_key or self.kling_access_key or self.kling_secret_key:
            return Provider.KLING
        if self.cometapi_key:
            return Provider.COMETAPI
        raise CredentialsMissing(
            "KLING_FLOWS_PROVIDER",
            "no provider is named and no key is set. Set KLING_API_KEY, or KLING_ACCESS_KEY and KLING_SECRET_KEY, or "
            "COMETAPI_KEY; or try it without a key: --provider sandbox",
        )

    def _all_credentials(self) -> Iterator[tuple[Provider, Credentials]]:
        yield Provider.SANDBOX, JwtCredentials(SANDBOX_ACCESS_KEY, SecretStr(SANDBOX_SECRET_KEY))
        yield Provider.SANDBOX, ApiKeyCredentials(SecretStr(SANDBOX_API_KEY))
        if self.kling_api_key is not None:
            yield Provider.KLING, ApiKeyCredentials(_printable("KLING_API_KEY", self.kling_api_key))
        if self.kling_access_key is not None and self.kling_secret_key is not None:
            yield Provider.KLING, self._kling_jwt(self.kling_access_key, self.kling_secret_key)
        if self.cometapi_key is not None:
            yield Provider.COMETAPI, ApiKeyCredentials(_printable("COMETAPI_KEY", self.cometapi_key))

    def _credentials(self, provider: Provider, dialect: Dialect) -> Credentials:
        if provider is Provider.SANDBOX:
            if dialect is Dialect.STANDARD:
                return ApiKeyCredentials(SecretStr(SANDBOX_API_KEY))
            return JwtCredentials(SANDBOX_ACCESS_KEY, SecretStr(SANDBOX_SECRET_KEY))
        if provider is Provider.COMETAPI:
            if self.cometapi_key is None:
                raise CredentialsMissing("COMETAPI_KEY", "is not set; or try it without a key: --provider sandbox")
            return ApiKeyCredentials(_printable("COMETAPI_KEY", self.cometapi_key))
        if self.kling_api_key is not None:
            return ApiKeyCredentials(_printable("KLING_API_KEY", self.kling_api_key))
        if self.kling_access_key is None or self.kling_secret_key is None:
            missing = "KLING_ACCESS_KEY" if self.kling_access_key is None else "KLING_SECRET_KEY"
            raise CredentialsMissing(
                missing,
                "is not set; the provider kling needs KLING_API_KEY, or KLING_ACCESS_KEY and KLING_SECRET_KEY. "
                "To try it without a key: --provider sandbox",
            )
        return self._kling_jwt(self.kling_access_key, self.kling_secret_key)

    @staticmethod
    def _kling_jwt(access_key: SecretStr, secret_key: SecretStr) -> JwtCredentials:
        return JwtCredentials(
            _printable("KLING_ACCESS_KEY", access_key).get_secret_value(), _printable("KLING_SECRET_KEY", secret_key)
        )

    def environment(self) -> Mapping[str, str]:
        """These settings as variables, for a child process that is to have the same ones."""
        result: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None:
                continue
            text = _as_variable(value)
            result[name.upper() if name.upper() in _KEY_NAMES else PREFIX + name.upper()] = text
        return result


#: What an account calls its fields, and where they are set.
_ACCOUNT_SETTINGS = {
    "base_url": "KLING_FLOWS_UPSTREAM_URL",
    "region": "KLING_FLOWS_REGION",
    "dialect": "KLING_FLOWS_DIALECT",
}


@contextmanager
def _named_as_set() -> Generator[None]:
    """Name the setting where the account, which does not know of settings, names its own field."""
    try:
        yield
    except ConfigurationError as error:
        setting = _ACCOUNT_SETTINGS.get(error.setting)
        if setting is None:
            raise
        raise ConfigurationError(setting, error.message.removeprefix(f"{error.setting}: ")) from None


def _as_variable(value: object) -> str:
    """As the environment holds it; what is more than a word is JSON there."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return json.dumps({name: _as_variable(item) for name, item in items})
    if isinstance(value, tuple):
        return json.dumps([_as_item(item) for item in cast("tuple[object, ...]", value)])
    return str(value)


def _as_item(item: object) -> object:
    return item.model_dump(mode="json", exclude_none=True) if isinstance(item, BaseModel) else _as_variable(item)


_KEY_NAMES = frozenset({"KLING_API_KEY", "KLING_ACCESS_KEY", "KLING_SECRET_KEY", "COMETAPI_KEY"})


def configuration_file() -> Path:
    """The TOML file that is read if it exists."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else Path(platformdirs.user_config_dir("kling-flows", appauthor=False)) / "config.toml"


def _printable(name: str, secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text:
        raise ConfigurationError(name, "is empty; copy it again from the provider's console")
    if text != text.strip() or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigurationError(
            name, "has blanks, line breaks or characters that no key has; copy it again from the provider's console"
        )
    return secret


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def split_loopback_address(setting: str, address: str, remedy: str) -> tuple[str, int]:
    """Host and port of an address that nobody else's machine reaches.

    Raises:
        ConfigurationError: it is malformed, or reachable from other machines; ``setting`` is named, and ``remedy`` says
            why that is refused and what to do instead.
    """
    host, port = split_address(setting, address)
    if host == "localhost":
        host = "127.0.0.1"
    if not is_loopback(host):
        raise ConfigurationError(setting, f"{address!r} can be reached from other machines{remedy}")
    return host, port


def split_address(setting: str, address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``.

    Raises:
        ConfigurationError: it is neither; ``setting`` is named.
    """
    host, _, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    # Without brackets nobody can tell where a v6 address ends.
    if not host or (":" in host) is not bracketed or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65_535:
        raise ConfigurationError(setting, f"{address!r} is not host:port; for example 127.0.0.1:50051")
    return host, int(port)
