from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Sandbox, Server, sandbox, serve, serve_settings


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox that renders real videos."""
    with sandbox(tmp_path_factory.mktemp("sandbox"), "--seconds", "1:2", "--concurrency", "0") as running:
        yield running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, provider: Sandbox) -> Iterator[Server]:
    """A whole server for tests that do it no harm."""
    folder: Path = tmp_path_factory.mktemp("serve")
    with serve(folder, serve_settings(folder, provider.url)) as running:
        yield running
