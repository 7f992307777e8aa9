"""Parameters that several flows share, as Prefect's form shows them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, TypeAlias, cast

from prefect.blocks.core import Block
from pydantic import Field

from kling_flows.blocks import CometApiCredentials, KlingCredentials, VideoArchive
from kling_flows.engine.engine import Engine
from kling_flows.errors import ConfigurationError
from kling_flows.steps import SettingsBlock, video_session

_ACCOUNTS = (KlingCredentials, CometApiCredentials)

# By name, so that nothing of a block ever stands in a flow run's parameters.
CredentialsName: TypeAlias = Annotated[
    str | None,
    Field(
        title="Credentials block",
        description="Whose account pays: kling-credentials/<name> or cometapi-credentials/<name>. Left out: the "
        "account that KLING_FLOWS_* names where the flow runs.",
        pattern=r"^(kling|cometapi)-credentials/.+$",
        examples=["kling-credentials/production"],
    ),
]
ArchiveName: TypeAlias = Annotated[
    str | None,
    Field(
        title="Archive block",
        description="Where videos go: video-archive/<name>. Left out: where KLING_FLOWS_ARCHIVE says.",
        pattern=r"^video-archive/.+$",
        examples=["video-archive/ads"],
    ),
]
Days: TypeAlias = Annotated[
    int, Field(title="Days back", description="How far back to look, in days.", ge=1, le=365, examples=[30])
]


@asynccontextmanager
async def named_session(credentials: str | None, archive: str | None) -> AsyncGenerator[Engine]:
    """The engine that a flow works with; blocks by their names.

    Raises:
        ConfigurationError: there is no such block, or the settings cannot be used.
    """
    blocks = [
        await _load("credentials_block", credentials, _ACCOUNTS),
        await _load("archive_block", archive, (VideoArchive,)),
    ]
    async with video_session(*blocks) as engine:
        yield engine


async def _load(parameter: str, name: str | None, kinds: tuple[type[Block], ...]) -> SettingsBlock | None:
    if name is None:
        return None
    try:
        block = await Block.aload(name)
    except ValueError:
        raise ConfigurationError(parameter, f"Prefect has no block {name!r}; save one, or leave it out") from None
    if not isinstance(block, kinds):
        allowed = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigurationError(parameter, f"{name!r} is a {type(block).__name__}; name a {allowed}")
    return cast("SettingsBlock", block)
