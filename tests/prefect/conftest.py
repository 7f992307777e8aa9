"""One Prefect server and one sandbox for all tests of the plugin, and this process as their client."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED,
    PREFECT_HOME,
    PREFECT_LOGGING_TO_API_ENABLED,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    temporary_settings,
)

from tests.stack import Sandbox, clean_environment, free_port, process, sandbox, until

from .rig import Prefect


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Prefect leaves connections of its own clients to the collector, which is no fault of the test at hand."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("sandbox")
    with sandbox(folder, "--seconds", "1:1.5", "--concurrency", "0", "--video", "tiny") as running:
        yield running


@pytest.fixture(scope="session")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    command = (sys.executable, "-m", "kling_flows.runner.prefect_server", "127.0.0.1", str(port))
    # A schedule of seconds must not wait for a scheduler of minutes.
    environment = clean_environment(PREFECT_HOME=str(folder), PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS="2")
    with process(*command, environment=environment, log=folder / "server.log") as child:
        server = Prefect(f"http://127.0.0.1:{port}/api", folder)
        until(lambda: server.is_up() or child.poll() is not None, "Prefect is up")
        assert child.poll() is None, (folder / "server.log").read_text()
        yield server


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider: Sandbox) -> dict[str, str]:
    """A ledger and an archive of its own for each test."""
    for name in list(os.environ):
        if name.upper().startswith(("KLING_", "COMETAPI_")):
            monkeypatch.delenv(name)
    values = {
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_UPSTREAM_URL": provider.url,
        "KLING_FLOWS_STATE_DIR": str(tmp_path / "state"),
        "KLING_FLOWS_POLL_INTERVAL": "0.2",
        "XDG_CONFIG_HOME": str(tmp_path / "no-settings"),
        "SSL_CERT_DIR": str(tmp_path),
        "NO_PROXY": "*",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def connected(prefect: Prefect) -> Iterator[Prefect]:
    """This process runs its flows against the server."""
    with temporary_settings(
        {
            PREFECT_API_URL: prefect.url,
            PREFECT_HOME: prefect.folder,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
            PREFECT_LOGGING_TO_API_ENABLED: False,
            PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED: False,
        }
    ):
        yield prefect
    # Here, and not in whatever test comes next.
    gc.collect()
