"""Two whole installations that share nothing but the ledger on PostgreSQL, the archive and the provider."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.stack import Server, sandbox, serve, serve_settings, until

from .postgres_server import PASSWORD, PostgresServer

TASKS = 12


@pytest.mark.full
def test_what_one_machine_began_the_other_ends_and_every_front_shows(
    postgres: PostgresServer, empty_database: str, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        upstream = stack.enter_context(sandbox(tmp_path, "--seconds", "20:25", "--video", "tiny"))
        servers = []
        for name in ("a", "b"):
            folder = tmp_path / name
            folder.mkdir()
            settings = serve_settings(
                folder,
                upstream.url,
                KLING_FLOWS_LEDGER_URL=postgres.host_url(empty_database),
                KLING_FLOWS_ARCHIVE=str(tmp_path / "archive"),
            )
            servers.append(stack.enter_context(serve(folder, settings)))
        first, second = servers

        def show(server: Server, *options: str) -> list[dict[str, object]]:
            return json.loads(server.cli("list", "--json", *options).stdout).get("video_tasks", [])

        for number in range(TASKS):
            servers[number % 2].cli("generate", f"a cup, number {number}", "--detach")
        assert len(show(first)) == len(show(second)) == TASKS
        until(lambda: upstream.charges(), "something is at the provider")
        runner = first.pid("kling_flows.runner")
        assert runner is not None
        # The machine is gone, with all that would start its runner again.
        for child in (first.child.pid, runner):
            psutil.Process(child).kill()
        until(lambda: len(show(second, "--state", "succeeded")) == TASKS, "the other machine ends all")
        assert len(upstream.charges()) == TASKS
        assert PASSWORD not in first.log() + second.log()
