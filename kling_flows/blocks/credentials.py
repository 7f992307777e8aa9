"""Accounts at a provider, as Prefect keeps them: its server encrypts what is secret in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from prefect.blocks.abstract import CredentialsBlock
from pydantic import Field, HttpUrl, SecretStr, model_validator

from kling_flows.blocks.look import DOCUMENTATION, LOGO
from kling_flows.settings import Settings
from kling_flows.upstream import UpstreamClient
from kling_flows.upstream.constants import Dialect, Provider


class _ProviderCredentials(CredentialsBlock):
    def settings(self) -> Mapping[str, Any]:
        """These credentials as settings by name; all that say which account it is, so that none is mixed in."""
        raise TypeError(f"{type(self).__name__} says nothing of an account")

    def get_client(self) -> UpstreamClient:
        """A client of the provider's API; open it with ``async with``.

        Raises:
            ConfigurationError: the credentials cannot be used.
        """
        return UpstreamClient(Settings.load().model_copy(update=dict(self.settings())).account())


class KlingCredentials(_ProviderCredentials):
    """An account at Kling: an API key, or an access key with its secret key.

    Example:
        Load the credentials and use them in a flow:

        ```python
        from kling_flows import KlingCredentials, TextToVideoRequest, submit_video

        credentials = KlingCredentials.load("production")
        ```
    """

    _block_type_name: ClassVar[str | None] = "Kling Credentials"
    _block_type_slug: ClassVar[str | None] = "kling-credentials"
    _logo_url: ClassVar[HttpUrl | None] = LOGO
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _description: ClassVar[str | None] = "An account at Kling that pays for videos."

    api_key: SecretStr | None = Field(
        default=None, title="API key", description="A static API key. Either it, or both of the other keys."
    )
    access_key: SecretStr | None = Field(
        default=None, title="Access key", description="The access key; goes with the secret key."
    )
    secret_key: SecretStr | None = Field(default=None, title="Secret key", description="The secret key.")
    region: Literal["singapore", "beijing", "global"] = Field(
        default="singapore", title="Region", description="The region that the key belongs to."
    )
    dialect: Dialect = Field(
        default=Dialect.LEGACY,
        title="API generation",
        description="legacy, or standard, which takes an API key only.",
    )
    base_url: str | None = Field(
        default=None, title="Base URL", description="Only to call another host than the region's, such as a stand-in."
    )

    @model_validator(mode="after")
    def _one_kind_of_key(self) -> KlingCredentials:
        pair = (self.access_key is not None, self.secret_key is not None)
        if (self.api_key is not None) + any(pair) != 1 or (any(pair) and not all(pair)):
            raise ValueError("give an API key, or an access key with its secret key, and not both")
        return self

    def settings(self) -> Mapping[str, Any]:
        """These credentials as settings by name."""
        return {
            "provider": Provider.KLING,
            "upstream_url": self.base_url,
            "region": self.region if self.base_url is None else None,
            "dialect": self.dialect,
            "kling_api_key": self.api_key,
            "kling_access_key": self.access_key,
            "kling_secret_key": self.secret_key,
        }


class CometApiCredentials(_ProviderCredentials):
    """An account at CometAPI, which sells Kling's videos under its own key."""

    _block_type_name: ClassVar[str | None] = "CometAPI Credentials"
    _block_type_slug: ClassVar[str | None] = "cometapi-credentials"
    _logo_url: ClassVar[HttpUrl | None] = LOGO
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _description: ClassVar[str | None] = "An account at CometAPI that pays for Kling's videos."

    api_key: SecretStr = Field(title="API key", description="A key of CometAPI.")
    base_url: str | None = Field(
        default=None, title="Base URL", description="Only to call another host than CometAPI's own; ends in /kling."
    )

    def settings(self) -> Mapping[str, Any]:
        """These credentials as settings by name."""
        return {
            "provider": Provider.COMETAPI,
            "upstream_url": self.base_url,
            "region": None,
            "dialect": Dialect.LEGACY,
            "cometapi_key": self.api_key,
        }


Credentials: TypeAlias = KlingCredentials | CometApiCredentials
