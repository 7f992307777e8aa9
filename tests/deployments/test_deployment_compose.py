from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tests.deployments.files import COMPOSE, Document, assignments, compose

#: From github.com/compose-spec/compose-go v2.16.2, schema/compose-spec.json, Apache-2.0.
_SCHEMA = Path(__file__).with_name("compose-spec.json")


@pytest.fixture(scope="module")
def project() -> Document:
    return compose()


def test_it_is_a_compose_file(project: Document) -> None:
    errors = Draft202012Validator(json.loads(_SCHEMA.read_text())).iter_errors(project)
    assert [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors] == []


def test_every_part_that_is_named_is_there(project: Document) -> None:
    for service in project["services"].values():
        assert set(service.get("depends_on", {})) <= set(project["services"])
        assert set(service["networks"]) <= set(project["networks"])
        assert set(service.get("secrets", [])) <= set(project["secrets"])
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(project["volumes"])


def test_nobody_waits_for_the_health_of_one_that_has_no_check(project: Document) -> None:
    for service in project["services"].values():
        for name, wait in service.get("depends_on", {}).items():
            assert wait["condition"] != "service_healthy" or "healthcheck" in project["services"][name]


def test_no_container_can_become_more_than_it_is(project: Document) -> None:
    for name, service in project["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name


def test_images_have_versions(project: Document) -> None:
    for service in project["services"].values():
        assert re.fullmatch(r"kling-flows:local|[a-z/]+:\d[\w.-]*", service["image"])


def test_only_this_machine_reaches_what_is_published(project: Document) -> None:
    published = [port for service in project["services"].values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_databases_and_stores_have_no_way_out(project: Document) -> None:
    inside = {name for name, network in project["networks"].items() if network.get("internal")}
    for name in ("ledger-db", "prefect-db", "redis", "store", "bucket"):
        assert set(project["services"][name]["networks"]) <= inside


def test_those_who_call_each_other_share_a_network(project: Document) -> None:
    services = project["services"]
    text = COMPOSE.read_text()
    for caller, called in (("front", "ledger-db"), ("runner", "ledger-db"), ("runner", "prefect"), ("runner", "store")):
        assert set(services[caller]["networks"]) & set(services[called]["networks"])
    for host in re.findall(r"(?:http|redis)://([a-z-]+):\d|@([a-z-]+)/", text):
        assert "".join(host) in services


def test_every_secret_comes_from_outside(project: Document) -> None:
    filled_in = assignments(COMPOSE.with_name("example.env").read_text())
    named = set(re.findall(r"\$\{([A-Z_]+):[?-]", COMPOSE.read_text()))
    assert set(re.findall(r"\$\{([A-Z_]+):\?", COMPOSE.read_text())) <= set(filled_in) <= named
    secret = re.compile("KEY|PASSWORD|AUTH_STRING")
    for service in project["services"].values():
        for name, value in service.get("environment", {}).items():
            assert not secret.search(name) or re.fullmatch(r"\$\{[A-Z_]+:(-|\?[^}]+)\}", value), name
    assert all(not value for name, value in filled_in.items() if secret.search(name))
