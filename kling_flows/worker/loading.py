"""The flows that a worker runs: installed, or in a file on this machine; async."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from prefect import Flow
from prefect.client.schemas.responses import DeploymentResponse
from prefect.flows import load_flow_from_entrypoint

from kling_flows.errors import ConfigurationError

_SET_DIRECTORY: Final = "prefect.deployments.steps.set_working_directory"
_ELSEWHERE: Final = "a worker of another type, such as process, runs it in a process of its own"


class Flows:
    """Loads each flow once for all its runs."""

    def __init__(self) -> None:
        self._flows: dict[str, Flow[..., Any]] = {}

    async def of(self, deployment: DeploymentResponse) -> Flow[..., Any]:
        """The flow of a deployment.

        Raises:
            ConfigurationError: this process cannot run it.
            ImportError: it is not there, or cannot be imported.
        """
        entrypoint = _entrypoint(deployment)
        if entrypoint not in self._flows:
            flow: Flow[..., Any] = await asyncio.to_thread(
                load_flow_from_entrypoint, entrypoint, use_placeholder_flow=False
            )
            if not inspect.iscoroutinefunction(flow.fn):
                raise ConfigurationError(deployment.name, f"flow {flow.name!r} is not `async def`; {_ELSEWHERE}")
            self._flows[entrypoint] = flow
        return self._flows[entrypoint]


def _entrypoint(deployment: DeploymentResponse) -> str:
    entrypoint = deployment.entrypoint
    if not entrypoint:
        raise ConfigurationError(deployment.name, "the deployment has no entrypoint; deploy it again")
    if ":" not in entrypoint:
        return entrypoint
    # A step that sets the working directory would set it for all runs of this process.
    folder = deployment.path
    for step in deployment.pull_steps or ():
        folder = _directory(step)
        if folder is None:
            raise ConfigurationError(
                deployment.name,
                "its code has to be pulled, and the runs of this worker share one process; deploy it with a module "
                f"path as its entrypoint and install its package here, or: {_ELSEWHERE}",
            )
    return str(Path(folder or ".").absolute() / entrypoint)


def _directory(step: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The folder that a pull step goes to, if that is all it does."""
    inputs = step.get(_SET_DIRECTORY)
    return None if inputs is None else str(inputs.get("directory") or ".")
