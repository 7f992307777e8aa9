"""Every sample of the documents does what its page says."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from kling_flows.settings import Settings
from tests.stack import PATIENCE, Sandbox, Server, clean_environment, sandbox, serve, serve_settings, until

from .samples import JAVA, MARK, RUN, Block, Folder, blocks, pages, runnable

#: Blocks that no test of the documents runs, by page and first line, and who tries them instead or why nobody can.
NOT_RUN = {
    ("docs/tutorial.md", "git clone https://github.com/kling-flows/kling-flows && cd kling-flows"): "needs the network",
    ("docs/tutorial.md", 'export PATH="$PWD/.venv/bin:$PATH"'): "the tests' own PATH has the commands",
    ("docs/how-to/languages.md", "cd examples/java && mvn -q package"): "tests/clients builds and runs it",
    ("docs/how-to/callbacks.md", "export KLING_FLOWS_HTTP_LISTEN=127.0.0.1:8790"): "a public address; tests/front",
    (
        "docs/how-to/recover.md",
        "kling-flows resolve vt-… --adopt 8401234567890",
    ): "needs an UNRESOLVED task; tests/front",
    ("docs/deploy.md", "useradd --system --home-dir /var/lib/kling-flows --shell /usr/sbin/nologin kling-flows"): (
        "changes the machine; tests/deployments checks the units"
    ),
    (
        "docs/how-to/archive.md",
        "aws s3api put-bucket-lifecycle-configuration --bucket videos --lifecycle-configuration \\",
    ): "needs an account",
    ("docs/deploy.md", "docker build -f deployments/docker/Dockerfile -t kling-flows ."): "needs a container engine",
    ("docs/deploy.md", "cd deployments/compose"): "needs a container engine",
    ("docs/deploy.md", "kubectl create namespace kling-flows"): "needs a cluster",
    (
        "docs/deploy.md",
        "kubectl --namespace kling-flows scale deployment/front deployment/runner --replicas 0",
    ): "needs a cluster",
    (
        "docs/operations.md",
        "export KLING_FLOWS_LEDGER_URL=postgresql://kling@db.internal/kling PGPASSWORD=…",
    ): "needs PostgreSQL; tests/ledger",
    ("docs/operations.md", "kling-flows ledger export ledger.jsonl"): "needs PostgreSQL; tests/ledger",
    (
        "docs/operations.md",
        'grpcurl -H "authorization: Bearer $TOKEN" front.internal:50051 grpc.channelz.v1.Channelz/GetServers',
    ): "asks a front that is elsewhere; tests/front/test_front_channelz.py",
}

#: Pages that `make faults` runs, because another one tries the same commands on every `make test`.
SELDOM = frozenset({"docs/how-to/schedule.md"})  # docs/prefect.md

#: Only shown, or checked by ``test_data_is_well_formed``.
OTHER = frozenset({"", "text", "json", "toml", "yaml"})


@dataclass
class Stack:
    server: Server
    provider: Sandbox


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """What the tutorial starts, at free ports; a video takes half a second."""
    folder = tmp_path_factory.mktemp("docs")
    with (
        sandbox(folder, "--seconds", "0.3:0.6", "--concurrency", "0", "--video", "tiny") as provider,
        serve(folder, serve_settings(folder, provider.url, KLING_FLOWS_POLL_INTERVAL="0.2")) as server,
    ):
        until(server.prefect_is_up, "Prefect answers")
        yield Stack(server, provider)


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.full if page in SELDOM else ()) for page in pages() if runnable(page)],
)
def test_the_samples_of_a_page_run(page: str, stack: Stack, tmp_path: Path) -> None:
    _run(runnable(page), stack, tmp_path)


@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize("page", [page for page in pages() if runnable(page, JAVA)])
def test_the_samples_in_java_run(page: str, stack: Stack, tmp_path: Path) -> None:
    _run(runnable(page, JAVA), stack, tmp_path)


def _run(samples: list[Block], stack: Stack, tmp_path: Path) -> None:
    server = stack.server
    prefect = server.settings["KLING_FLOWS_PREFECT_LISTEN"]
    addresses = {
        "127.0.0.1:50051": server.address,
        "http://127.0.0.1:8791": stack.provider.url,
        "127.0.0.1:4200": prefect,
    }
    folder = Folder(tmp_path, addresses)
    (tmp_path / "empty.toml").write_text("")
    environment = clean_environment(
        **server.settings
        | {
            "KLING_FLOWS_LISTEN": server.address,
            "KLING_FLOWS_CONFIG": str(tmp_path / "empty.toml"),
            "PREFECT_API_URL": server.prefect_api,
            "PREFECT_HOME": str(tmp_path / "prefect"),
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PATH": os.pathsep.join((str(folder.binaries), os.environ["PATH"])),
        }
    )
    done = subprocess.run(
        ["bash", "-c", folder.script(samples)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    charges = stack.provider.charges()
    assert len({charge["external_task_id"] for charge in charges}) == len(charges), "a video was paid twice"


@pytest.mark.parametrize("page", pages())
def test_what_is_not_run_is_known(page: str) -> None:
    found = list(blocks(page))
    assert {block.language for block in found} <= RUN | JAVA | OTHER
    assert {block.mark for block in found} <= {"", MARK}
    marked = {(page, block.first_line) for block in found if block.mark}
    assert marked == {known for known in NOT_RUN if known[0] == page}


@pytest.mark.parametrize("page", pages())
def test_data_is_well_formed(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            list(yaml.safe_load_all(block.text))
        elif block.language == "toml":
            tomllib.loads(block.text)
            if block.first_line == "# config.toml":
                (tmp_path / "config.toml").write_text(block.text)
                monkeypatch.setenv("KLING_FLOWS_CONFIG", str(tmp_path / "config.toml"))
                Settings.load()
