from __future__ import annotations

from typing import Any

import crossplane
import kubernetes_validate
import pytest

from tests.deployments.files import KUBERNETES, Document, kustomization, manifest, manifests, pod

#: The first release whose grace period, sidecars and sleeping hooks are those that the manifests use, and the newest.
_RELEASES = ("1.30", "1.37")

_ROLES = ("front", "runner", "prefect")


def _containers(role: str) -> list[Document]:
    spec = pod(role)
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("release", _RELEASES)
def test_kubernetes_knows_every_field(release: str) -> None:
    for document in manifests():
        kubernetes_validate.validate(document, release, strict=True)


def test_whatever_is_referred_to_is_there_or_is_a_secret_that_the_page_makes() -> None:
    made = {generator["name"] for generator in kustomization()["configMapGenerator"]}
    secrets: set[str] = set()
    for role in _ROLES:
        spec = pod(role)
        assert manifest("ServiceAccount", spec["serviceAccountName"])
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= made
        secrets |= {volume["secret"]["secretName"] for volume in volumes.values() if "secret" in volume}
        for container in _containers(role):
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= made
            sources = [entry["valueFrom"]["secretKeyRef"] for entry in container.get("env", []) if "valueFrom" in entry]
            secrets |= {source["name"] for source in sources}
    assert secrets == {"kling-flows-keys", "kling-flows-access", "kling-flows-tls", "kling-flows-prefect"}
    for generator in kustomization()["configMapGenerator"]:
        assert all((KUBERNETES / name).is_file() for name in [*generator.get("envs", []), *generator.get("files", [])])


def test_no_secret_stands_in_a_manifest() -> None:
    assert not [document for document in manifests() if document["kind"] == "Secret"]
    for role in _ROLES:
        for container in _containers(role):
            for entry in container.get("env", []):
                word = entry["name"].rpartition("_")[2]
                assert (
                    word not in ("KEY", "PASSWORD", "STRING")
                    or "secretKeyRef" in entry.get("valueFrom", {})
                    or (entry["name"] == "KLING_FLOWS_TLS_KEY")
                )


@pytest.mark.parametrize("role", _ROLES)
def test_no_pod_can_become_more_than_it_is(role: str) -> None:
    spec = pod(role)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(role):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("role", _ROLES)
def test_every_role_is_probed(role: str) -> None:
    (container,) = pod(role)["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_a_ledger_that_is_away_restarts_no_front() -> None:
    (container,) = pod("front")["containers"]
    assert "grpc" in container["readinessProbe"]
    assert "grpc" not in container["livenessProbe"]


@pytest.mark.parametrize("role", ["front", "runner"])
def test_an_eviction_leaves_one_and_an_autoscaler_decides_how_many(role: str) -> None:
    deployment, scaler = manifest("Deployment", role)["spec"], manifest("HorizontalPodAutoscaler", role)["spec"]
    assert "replicas" not in deployment, "each `kubectl apply` would undo the autoscaler"
    assert scaler["scaleTargetRef"]["name"] == role
    assert scaler["minReplicas"] >= 2
    budget = manifest("PodDisruptionBudget", role)["spec"]
    assert budget["maxUnavailable"] < scaler["minReplicas"]
    assert budget["selector"] == deployment["selector"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels


def test_nothing_comes_or_goes_that_is_not_named() -> None:
    closed: dict[str, Any] = manifest("NetworkPolicy", "nothing-else")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [document["spec"] for document in manifests() if document["kind"] == "NetworkPolicy"]
    for policy in policies:
        for rule in policy.get("ingress", []):
            assert rule["from"]
            assert rule["ports"]
        assert all(rule["ports"] for rule in policy.get("egress", []))


@pytest.mark.parametrize("name", ["front-edge.conf", "runner-edge.conf"])
def test_nginx_knows_every_directive(name: str) -> None:
    # The parser's list ends before 1.25.1, which made this one.
    parsed = crossplane.parse(str(KUBERNETES / name), single=True, strict=True, ignore=["http2"])
    assert parsed["errors"] == []
