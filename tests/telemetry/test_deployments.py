"""The dashboard and the alert rules ask for metrics that exist, with labels and values that they have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from grpc_server.http.metrics import LedgerCollector
from grpc_server.interceptors import SCOPES
from kling_flows.ledger import FINAL_STATES, Figures, State
from kling_flows.runner.metrics import OUTCOMES
from kling_flows.telemetry.front import FrontMetrics
from kling_flows.telemetry.runner import RunnerMetrics

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deployments" / "grafana").glob("*.json"))
RULES = sorted((ROOT / "deployments" / "prometheus").glob("*.yml"))

_METRIC = re.compile(r"\b(?:kling_flows|process)_[a-z_]+\b")
#: A selector: the metric's name and what stands in its braces.
_SELECTOR = re.compile(r"\b(kling_flows_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'([a-z_]+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_DURATION = re.compile(r"\d+[smhd]")

VALUES = {
    "state": {state.value for state in State} | {"PENDING", "DEAD"},
    "outcome": set(OUTCOMES),
    "kind": {"single", "batch", "without", "reserved", "settled"},
    "method": set(SCOPES),
    "code": {"OK", "INTERNAL", "UNKNOWN"},
}


def _registries() -> list[CollectorRegistry]:
    read = LedgerCollector()
    read.show(Figures())
    return [FrontMetrics([state.value for state in FINAL_STATES], read).registry, RunnerMetrics(OUTCOMES, int).registry]


def exported() -> set[str]:
    """The names of all series."""
    names: set[str] = set()
    for registry in _registries():
        for metric in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            names.update(metric.name + suffix for suffix in suffixes)
    return names


def _panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", ())


def _rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def _expressions() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in DASHBOARDS:
        for panel in _panels(json.loads(path.read_text())):
            for target in panel.get("targets", ()):
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = target["expr"]
    for path in RULES:
        found.update({f"{path.stem}: {rule['alert']}": rule["expr"] for rule in _rules(path)})
    return found


EXPRESSIONS = _expressions()


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_every_expression_asks_for_what_there_is(expression: str) -> None:
    asked = set(_METRIC.findall(re.sub(r"\{[^}]*\}", "", expression)))
    assert asked
    assert asked <= exported()
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)
    for _, matchers in _SELECTOR.findall(expression):
        for label, operator, value in _MATCHER.findall(matchers):
            wanted = value.split("|") if operator.endswith("~") else [value]
            assert set(wanted) <= VALUES[label], label


def test_everything_that_is_exported_by_us_is_on_a_dashboard() -> None:
    shown = set(_METRIC.findall(" ".join(EXPRESSIONS.values())))
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in exported() if name.startswith("kling_flows_")}
    assert ours - {re.sub("_(bucket|sum|count)$", "", name) for name in shown} == set()


def test_every_metric_is_explained_in_the_docs() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in exported() if name.startswith("kling_flows_")}
    assert {name for name in ours if f"`{name}`" not in page} == set()
    assert {name for name in _METRIC.findall(page) if name.startswith("kling_flows_")} - exported() - ours == set()


def test_panels_have_ids_and_places_of_their_own() -> None:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text())
        panels = list(_panels(dashboard))
        assert len({panel["id"] for panel in panels}) == len(panels)
        assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
        assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)
        assert {"uid", "title", "schemaVersion", "templating"} <= dashboard.keys()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for path in RULES:
        rules = _rules(path)
        assert len({rule["alert"] for rule in rules}) == len(rules)
        for rule in rules:
            assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
            assert _DURATION.fullmatch(rule.get("for", "1m"))
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert rule["annotations"].keys() == {"summary", "description"}
