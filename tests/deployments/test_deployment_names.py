"""Whatever the deployment files name exists in the product."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_settings_fields
from prefect_redis.client import RedisMessagingSettings

from grpc_server.http.address import http_address
from grpc_server.listen import listen_address
from kling_flows.cli.app import app
from kling_flows.logs import FORMAT_VARIABLE, LEVEL_VARIABLE
from kling_flows.runner.metrics import metrics_address
from kling_flows.serve.children import _TERMINATE_SECONDS
from kling_flows.settings import CONFIG_VARIABLE, PREFIX, Settings, split_address
from tests.deployments.files import DEPLOYMENTS, PAGE, ROOT, compose, manifest, pod, processes, set_environment

_OURS = [
    ROOT / ".dockerignore",
    PAGE,
    # Without hidden ones: somebody's own .env is none of ours.
    *(file for part in ("docker", "compose", "kubernetes", "systemd") for file in (DEPLOYMENTS / part).glob("[!._]*")),
]


def _named(pattern: str) -> set[tuple[Path, str]]:
    return {(file, name) for file in _OURS for name in re.findall(pattern, file.read_text())}


def _variables() -> set[str]:
    keys = {name.upper() for name, field in Settings.model_fields.items() if field.validation_alias is not None}
    ours = {PREFIX + name.upper() for name in Settings.model_fields}
    return ours - {PREFIX + key for key in keys} | keys | {CONFIG_VARIABLE, FORMAT_VARIABLE, LEVEL_VARIABLE}


def test_every_variable_of_ours_is_a_setting() -> None:
    named = _named(r"\b(?:KLING|COMETAPI)_[A-Z0-9_]+\b")
    assert named
    assert {(file, name) for file, name in named if name not in _variables()} == set()


def test_every_variable_of_prefect_is_one_that_its_pinned_release_knows() -> None:
    redis = {f"PREFECT_REDIS_MESSAGING_{name.upper()}" for name in RedisMessagingSettings.model_fields}
    known = set(_get_settings_fields(PrefectSettings)) | redis
    named = _named(r"\bPREFECT_[A-Z0-9_]+\b")
    # Names of our own in the environment of `docker compose`.
    named = {(file, name) for file, name in named if name not in ("PREFECT_AUTH", "PREFECT_DB_PASSWORD")}
    assert named
    assert {(file, name) for file, name in named if name not in known} == set()


def test_every_module_that_is_named_can_be_imported() -> None:
    modules = {name for _, name in _named(r"\b(?:prefect_redis|kling_flows|grpc_server)(?:\.[a-z_]+)+\b")}
    assert {"prefect_redis.messaging", "kling_flows.runner.prefect_server"} <= modules
    for name in modules:
        importlib.import_module(name)


def test_every_metric_is_one_that_is_served() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "kling_flows" / "telemetry").glob("*.py"))
    sources += "".join(file.read_text() for file in (ROOT / "grpc_server").rglob("*.py"))
    served = set(re.findall(r'"(kling_flows_[a-z_]+)"', sources))
    named = {name for _, name in _named(r"\bkling_flows_[a-z_]+\b")}
    assert "kling_flows_queue_age_seconds" in named
    assert {name.removesuffix("_total") for name in named} <= served


@pytest.mark.parametrize("arguments", [pytest.param(arguments, id=name) for name, arguments, _ in processes()])
def test_every_process_is_started_with_a_role_that_there_is(arguments: list[str]) -> None:
    assert arguments[0] == "serve"
    _parse(arguments)


def test_every_command_of_the_page_exists() -> None:
    text = PAGE.read_text()
    blocks = "".join(re.findall(r"^```sh.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    commands = re.findall(r"^(?:[A-Z_]+=\S+ )*kling-flows (.+)$", blocks, re.MULTILINE)
    commands += re.findall(r"`kling-flows ([^`]+)`", text)
    assert len(commands) > 3
    for command in commands:
        words = shlex.split(command, comments=True)
        _parse(words[: words.index(">>")] if ">>" in words else words)


def _parse(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    with group.make_context("kling-flows", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        while hasattr(command, "resolve_command"):
            name, command, rest = command.resolve_command(context, rest)
        command.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [pytest.param(given, words, id=name) for name, words, given in processes()],
)
def test_every_process_starts_with_its_settings(
    environment: dict[str, str], arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(monkeypatch, environment | {"HOME": str(tmp_path)})
    settings = Settings.load()
    assert settings.account()
    if "runner" not in arguments:
        assert listen_address(settings) == settings.listen
    if settings.http_listen is not None:
        http_address(settings.http_listen)
    if settings.runner_metrics_listen is not None:
        metrics_address(settings.runner_metrics_listen)


def test_the_ports_that_are_passed_on_are_those_that_are_listened_on() -> None:
    environments = {name: environment for name, _, environment in processes()}
    front, runner = environments["kubernetes front"], environments["kubernetes runner"]
    grpc_port = split_address("", front["KLING_FLOWS_LISTEN"])[1]
    edge = (DEPLOYMENTS / "kubernetes" / "front-edge.conf").read_text()
    assert set(re.findall(r"_pass (\S+);", edge)) == {
        f"grpcs://127.0.0.1:{grpc_port}",
        f"http://{front['KLING_FLOWS_HTTP_LISTEN']}",
    }
    edge = (DEPLOYMENTS / "kubernetes" / "runner-edge.conf").read_text()
    assert re.findall(r"_pass (\S+);", edge) == [f"http://{runner['KLING_FLOWS_RUNNER_METRICS_LISTEN']}"]
    (container,) = pod("front")["containers"]
    assert container["ports"] == [{"name": "grpc", "containerPort": grpc_port}]
    published = compose()["services"]["front"]
    assert published["ports"][0].endswith(f":{split_address('', published['environment']['KLING_FLOWS_LISTEN'])[1]}")


@pytest.mark.parametrize("role", ["front", "runner"])
def test_the_edge_listens_where_probes_scrapes_and_services_go(role: str) -> None:
    edge = (DEPLOYMENTS / "kubernetes" / f"{role}-edge.conf").read_text()
    listened = {int(port) for port in re.findall(r"listen (\d+);", edge)}
    (sidecar,) = pod(role)["initContainers"]
    assert {port["containerPort"] for port in sidecar["ports"]} == listened
    (container,) = pod(role)["containers"]
    own = {port["containerPort"] for port in container.get("ports", [])}
    for probe in ("startupProbe", "readinessProbe"):
        asked = container[probe].get("grpc") or container[probe]["httpGet"]
        assert asked["port"] in listened
    policy = manifest("NetworkPolicy", "metrics")["spec"]["ingress"][0]["ports"]
    assert {entry["port"] for entry in policy} <= listened
    for port in manifest("Service", "kling-flows")["spec"]["ports"]:
        if role == "front":
            assert port["targetPort"] in {"grpc"} | listened | own


def test_everybody_waits_long_enough_for_a_drain() -> None:
    for role in ("front", "runner"):
        spec = pod(role)
        hook = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert spec["terminationGracePeriodSeconds"] >= hook + _TERMINATE_SECONDS + 5
        grace = compose()["services"][role]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= _TERMINATE_SECONDS + 5
