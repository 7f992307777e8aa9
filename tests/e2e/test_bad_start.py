"""What cannot work is said at the start, in one message that names the setting and the remedy."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import clean_environment, cli, free_port, serve_settings

CONFIGURATION = 4


def _serve(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = serve_settings(folder, "http://127.0.0.1:9", **settings)
    return cli("serve", environment=clean_environment(**environment), check=False)


def test_without_a_key_and_a_provider_it_points_to_the_sandbox(tmp_path: Path) -> None:
    done = cli("serve", environment=clean_environment(KLING_FLOWS_STATE_DIR=str(tmp_path)), check=False)
    assert done.returncode == CONFIGURATION
    assert "KLING_API_KEY" in done.stderr
    assert "--provider sandbox" in done.stderr


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"KLING_FLOWS_PROVIDER": "kling"}, "KLING_ACCESS_KEY"),
        ({"KLING_FLOWS_PROVIDER": "kling", "KLING_API_KEY": "two words"}, "KLING_API_KEY"),
        ({"KLING_FLOWS_PROVIDER": "nobody"}, "KLING_FLOWS_PROVIDER"),
        ({"KLING_FLOWS_UPSTREAM_URL": "ftp://host"}, "KLING_FLOWS_UPSTREAM_URL"),
        ({"KLING_FLOWS_LISTEN": "nonsense"}, "KLING_FLOWS_LISTEN"),
        ({"KLING_FLOWS_LISTEN": "0.0.0.0:0"}, "KLING_FLOWS_ACCESS_FILE"),
        ({"KLING_FLOWS_POLL_INTERVAL": "soon"}, "KLING_FLOWS_POLL_INTERVAL"),
        ({"KLING_FLOWS_ARCHIVE": "/dev/null/videos"}, "KLING_FLOWS_ARCHIVE"),
        ({"KLING_FLOWS_STATE_DIR": "/dev/null/state"}, "KLING_FLOWS_STATE_DIR"),
        ({"KLING_FLOWS_LEDGER_URL": "mysql://host/db"}, "KLING_FLOWS_LEDGER_URL"),
        ({"KLING_FLOWS_CONFIG": "/nowhere/config.toml"}, "KLING_FLOWS_CONFIG"),
    ],
)
def test_a_setting_that_cannot_work_is_named(tmp_path: Path, settings: dict[str, str], named: str) -> None:
    done = _serve(tmp_path / "folder", **settings)
    assert done.returncode == CONFIGURATION
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("setting", ["KLING_FLOWS_LISTEN", "KLING_FLOWS_PREFECT_LISTEN"])
def test_a_port_that_is_taken_is_named(tmp_path: Path, setting: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _serve(tmp_path, **{setting: f"127.0.0.1:{taken.getsockname()[1]}"})
    assert done.returncode == CONFIGURATION
    assert setting in done.stderr


def test_a_state_dir_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    environment = clean_environment(**serve_settings(tmp_path, "http://127.0.0.1:9"))
    opened = "import asyncio, sys; from kling_flows.ledger import Ledger; asyncio.run(Ledger.open(sys.argv[1]))"
    ledger = tmp_path / "state" / "ledger.db"
    subprocess.run([sys.executable, "-c", opened, f"sqlite:///{ledger}"], env=environment, check=True)
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    done = cli("serve", environment=environment, check=False)
    assert done.returncode == CONFIGURATION
    assert "9999" in done.stderr
    with sqlite3.connect(ledger) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_a_server_that_is_not_there_is_said_with_the_command_that_starts_it() -> None:
    done = cli("--server", f"127.0.0.1:{free_port()}", "list", environment=clean_environment(), check=False)
    assert done.returncode == 8
    assert "kling-flows serve" in done.stderr
