"""Where videos are kept, as Prefect keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from prefect.blocks.core import Block
from prefect.types import SecretDict
from pydantic import Field, HttpUrl, SecretStr

from kling_flows.blocks.look import DOCUMENTATION, LOGO


class VideoArchive(Block):
    """A folder or a bucket for videos, with what it takes to write there.

    Example:
        ```python
        from kling_flows import VideoArchive

        VideoArchive(
            url="s3://videos/ads",
            options={"aws_access_key_id": "...", "aws_secret_access_key": "...", "aws_region": "eu-central-1"},
        ).save("ads")
        ```
    """

    _block_type_name: ClassVar[str | None] = "Video Archive"
    _block_type_slug: ClassVar[str | None] = "video-archive"
    _logo_url: ClassVar[HttpUrl | None] = LOGO
    _documentation_url: ClassVar[HttpUrl | None] = DOCUMENTATION
    _description: ClassVar[str | None] = "Where videos are kept: a folder, or object storage (S3, GCS, Azure)."

    url: str = Field(
        min_length=1,
        title="URL",
        description="A folder, or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.",
        examples=["s3://videos/ads"],
    )
    options: SecretDict = Field(
        default_factory=lambda: SecretDict({}),
        title="Options",
        description="The storage's options by obstore's names, such as aws_access_key_id, aws_secret_access_key, "
        "aws_region, aws_endpoint. Without any, its own environment variables and files apply.",
    )

    def settings(self) -> Mapping[str, Any]:
        """The archive as settings by name."""
        options = {name: SecretStr(str(value)) for name, value in self.options.get_secret_value().items()}
        return {"archive": self.url, "archive_options": options}
