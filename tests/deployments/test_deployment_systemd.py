from __future__ import annotations

import re

import pytest

from kling_flows.errors import ConfigurationError
from kling_flows.serve.children import _TERMINATE_SECONDS
from tests.deployments.files import DEPLOYMENTS, units

_UNITS = sorted(units())


def test_there_is_one_for_each_role() -> None:
    assert _UNITS == ["kling-flows-front.service", "kling-flows-runner.service", "kling-flows.service"]


@pytest.mark.parametrize("name", _UNITS)
def test_a_service_can_become_no_more_than_it_is(name: str) -> None:
    unit = units()[name]
    assert unit["User"] == ["kling-flows"]
    assert unit["CapabilityBoundingSet"] == unit["AmbientCapabilities"] == [""]
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["NoNewPrivileges"] == unit["PrivateTmp"] == unit["RestrictNamespaces"] == ["yes"]
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged"]
    # What tells runners of one machine from those of others is read from there.
    assert "ProcSubset" not in unit


@pytest.mark.parametrize("name", _UNITS)
def test_secrets_are_in_a_file_of_their_own(name: str) -> None:
    unit = units()[name]
    assert unit["EnvironmentFile"] == ["/etc/kling-flows/environment"]
    assert not re.search("KEY|TOKEN|PASSW", (DEPLOYMENTS / "systemd" / name).read_text())


@pytest.mark.parametrize("name", _UNITS)
def test_what_may_be_written_is_the_state(name: str) -> None:
    unit = units()[name]
    assert unit["Environment"] == [f"KLING_FLOWS_STATE_DIR=/var/lib/{unit['StateDirectory'][0]}"]


@pytest.mark.parametrize("name", _UNITS)
def test_a_wrong_configuration_is_not_tried_again(name: str) -> None:
    assert units()[name]["RestartPreventExitStatus"] == [str(ConfigurationError.exit_code)]


@pytest.mark.parametrize("name", _UNITS)
def test_children_are_drained_before_systemd_kills(name: str) -> None:
    # Where there may be a Prefect server, it is stopped after the others.
    turns = 1 if "--role front" in units()[name]["ExecStart"][0] else 2
    assert int(units()[name]["TimeoutStopSec"][0]) >= turns * _TERMINATE_SECONDS + 5
    # Our own children get the signal from us, in their order.
    assert units()[name]["KillMode"] == ["mixed"]
