from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from dockerfile_parse import DockerfileParser
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.deployments.files import DEPLOYMENTS, DOCKERFILE, ROOT
from tests.stack import free_port

_HEALTH = DEPLOYMENTS / "docker" / "health.py"


@pytest.fixture(scope="module")
def stages() -> list[list[tuple[str, str]]]:
    """The instructions of each stage."""
    structure = DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure
    result: list[list[tuple[str, str]]] = []
    for line in structure:
        if line["instruction"] == "FROM":
            result.append([])
        if line["instruction"] != "COMMENT":
            result[-1].append((line["instruction"], line["value"]))
    return result


def test_the_image_has_nothing_of_its_making(stages: list[list[tuple[str, str]]]) -> None:
    making, image = stages
    assert making[0][1].endswith(" AS build")
    assert making[0][1].removesuffix(" AS build") == image[0][1], "a virtual environment is bound to its Python"
    assert [value for name, value in image if name == "COPY"] == [
        "--from=build /opt/kling-flows /opt/kling-flows",
        "deployments/docker/health.py /opt/kling-flows/health.py",
    ]
    assert not any("pip" in value or "apt" in value for name, value in image if name == "RUN")


def test_the_image_runs_as_nobody_in_particular(stages: list[list[tuple[str, str]]]) -> None:
    *_, image = stages
    names = [name for name, _ in image]
    (user,) = [value for name, value in image if name == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert names.index("USER") > max(index for index, name in enumerate(names) if name in ("RUN", "COPY"))
    assert not any(
        re.search("KEY|TOKEN|SECRET|PASSW", value) for stage in stages for name, value in stage if name == "ENV"
    )


def test_bases_and_tools_have_versions(stages: list[list[tuple[str, str]]]) -> None:
    for (_, base), *_ in stages:
        assert re.match(r"[a-z/]+:\d[\w.-]+", base)
    makefile = (ROOT / "Makefile").read_text()
    (pinned,) = re.findall(r"^UV_VERSION := (\S+)$", makefile, re.MULTILINE)
    assert f"ARG UV_VERSION={pinned}\n" in DOCKERFILE.read_text()


def test_the_image_is_made_from_the_lock_file_with_extras_that_there_are(stages: list[list[tuple[str, str]]]) -> None:
    syncs = [value for name, value in stages[0] if name == "RUN" and "uv sync" in value]
    assert len(syncs) == 2
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for sync in syncs:
        assert "--frozen" in sync
        assert "--no-dev" in sync
        assert set(re.findall(r"--extra (\S+)", sync)) == {"otel", "postgres", "redis"} <= set(extras)


def test_what_is_copied_is_all_that_is_sent_to_the_builder(stages: list[list[tuple[str, str]]]) -> None:
    copies = [
        value.split()[:-1] for stage in stages for name, value in stage if name == "COPY" if "--from" not in value
    ]
    copied = {source for sources in copies for source in sources}
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


@pytest.fixture
def health_service() -> Iterator[tuple[health.HealthServicer, int]]:
    server, servicer = grpc.server(ThreadPoolExecutor(2)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(0).wait()


def _healthy(role: str, **variables: str) -> int:
    return subprocess.run(
        [sys.executable, str(_HEALTH), role], env=os.environ | variables, timeout=120, check=False
    ).returncode


def test_a_front_is_healthy_while_it_serves(health_service: tuple[health.HealthServicer, int]) -> None:
    servicer, port = health_service
    assert _healthy("front", KLING_FLOWS_LISTEN=f"0.0.0.0:{port}") == 0
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert _healthy("front", KLING_FLOWS_LISTEN=f"0.0.0.0:{port}") == 1


def test_nobody_there_is_not_healthy() -> None:
    assert _healthy("front", KLING_FLOWS_LISTEN=f"127.0.0.1:{free_port()}") == 1
    assert _healthy("runner", KLING_FLOWS_RUNNER_METRICS_LISTEN=f"127.0.0.1:{free_port()}") == 1


class _Metrics(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        return


def test_a_runner_is_healthy_while_it_tells_its_metrics() -> None:
    with HTTPServer(("127.0.0.1", 0), _Metrics) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert _healthy("runner", KLING_FLOWS_RUNNER_METRICS_LISTEN=f"127.0.0.1:{server.server_port}") == 0
        finally:
            server.shutdown()
            thread.join()
