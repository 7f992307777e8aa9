"""An archive per test, in a folder of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kling_flows.archive import VideoArchive, download
from kling_flows.outbound import policy_for

#: The sources of these tests are servers on this machine.
HERE = policy_for("http://127.0.0.1")


@pytest.fixture(autouse=True, scope="session")
def plain_connections(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing here is encrypted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("no-certificates")))
        yield


@pytest.fixture(autouse=True)
def quick_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_RESUME_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "the archive"


@pytest.fixture
async def archive(folder: Path) -> AsyncIterator[VideoArchive]:
    opened = VideoArchive.open(str(folder), policy=HERE)
    yield opened
    await opened.close()
