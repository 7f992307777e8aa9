"""The deployment files as data."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = ROOT / "deployments"
DOCKERFILE = DEPLOYMENTS / "docker" / "Dockerfile"
COMPOSE = DEPLOYMENTS / "compose" / "compose.yaml"
KUBERNETES = DEPLOYMENTS / "kubernetes"
PAGE = ROOT / "docs" / "deploy.md"

Document = dict[str, Any]


def compose() -> Document:
    return yaml.safe_load(COMPOSE.read_text())


def kustomization() -> Document:
    return yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())


def manifests() -> list[Document]:
    """What `kubectl apply -k` sends, before names and images are replaced."""
    texts = [(KUBERNETES / name).read_text() for name in kustomization()["resources"]]
    return [document for text in texts for document in yaml.safe_load_all(text)]


def manifest(kind: str, name: str) -> Document:
    return next(found for found in manifests() if (found["kind"], found["metadata"]["name"]) == (kind, name))


def pod(role: str) -> Document:
    return manifest("Deployment", role)["spec"]["template"]["spec"]


def assignments(text: str) -> dict[str, str]:
    """The lines `NAME=value` of an environment file."""
    return dict(re.findall(r"^([A-Z_0-9]+)=(.*)$", text, re.MULTILINE))


def units() -> dict[str, dict[str, list[str]]]:
    """Each unit's directives with all their values, by file name."""
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted((DEPLOYMENTS / "systemd").glob("*.service")):
        directives = found.setdefault(file.name, {})
        for name, value in re.findall(r"^([A-Za-z]+)=(.*)$", file.read_text(), re.MULTILINE):
            directives.setdefault(name, []).append(value)
    return found


def compose_environment(service: str) -> dict[str, str]:
    """What a container of the service gets, with every `${…}` filled in."""
    return {
        name: re.sub(r"\$\{[A-Z_]+:(-([^}]*)|\?[^}]*)\}", lambda found: found[2] or "filled-in", value)
        for name, value in compose()["services"][service]["environment"].items()
    }


def pod_environment(role: str) -> dict[str, str]:
    """What the container of a role gets; secrets have a value that says so."""
    (container,) = pod(role)["containers"]
    common = assignments((KUBERNETES / "settings.env").read_text()) if "envFrom" in container else {}
    return common | {entry["name"]: entry.get("value", "a-secret") for entry in container["env"]}


def processes() -> Iterator[tuple[str, list[str], dict[str, str]]]:
    """Where each of our processes is started, with which arguments of `kling-flows`, and in which environment."""
    for role in ("front", "runner"):
        yield f"compose {role}", compose()["services"][role]["command"], compose_environment(role)
        yield f"kubernetes {role}", pod(role)["containers"][0]["args"], pod_environment(role)
    for name, directives in units().items():
        program, *arguments = shlex.split(directives["ExecStart"][0])
        assert Path(program).name == "kling-flows"
        yield name, arguments, assignments("\n".join(directives["Environment"])) | {"KLING_FLOWS_PROVIDER": "sandbox"}


def set_environment(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    """Have these variables and none of the user's own."""
    for name in os.environ:
        if name.startswith(("KLING_", "COMETAPI_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
