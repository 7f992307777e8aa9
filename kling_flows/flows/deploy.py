"""``python -m kling_flows.flows.deploy``: creates or updates the work pool, its queues and the deployments.

Prints one JSON object: the pool, and the deployments with their ids.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import WorkQueueFilter, WorkQueueFilterName
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Schedule
from prefect.settings import PREFECT_API_URL
from prefect.types.entrypoint import EntrypointType
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from kling_flows import __version__
from kling_flows.errors import ConfigurationError, KlingFlowsError, ServerUnavailable
from kling_flows.flows.deployments import DEPLOYMENTS, OUR_TYPE, POOL_LIMIT, PRIORITIES, TAG, Planned

#: Longest that all of it may take, in seconds.
_SECONDS: Final = 120.0


async def deploy(pool: str, kind: str, only: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Create what is not there yet, and bring what is there up to date, except its schedules.

    Args:
        pool: Name of the work pool.
        kind: Its type if it has to be created, such as ``kling-flows`` or ``process``.
        only: The full names (``flow/deployment``) of those that are wanted; all, if it is empty.

    Raises:
        ConfigurationError: there is no such type of pool, or no such deployment.
        ServerUnavailable: Prefect's server does not answer.
    """
    wanted = [planned for planned in DEPLOYMENTS if not only or _name(planned) in only]
    missing = set(only) - {_name(planned) for planned in DEPLOYMENTS}
    if missing:
        known = ", ".join(map(_name, DEPLOYMENTS))
        raise ConfigurationError("--only", f"there is no deployment {min(missing)!r}; there are {known}")
    try:
        async with asyncio.timeout(_SECONDS), get_client() as client:
            await _pool(client, pool, kind)
            await _queues(client, pool)
            return [{"name": _name(planned), "id": str(await _deploy(client, planned, pool))} for planned in wanted]
    except (httpx.TransportError, TimeoutError) as error:
        raise ServerUnavailable(
            f"Prefect's server at {PREFECT_API_URL.value()} does not answer ({type(error).__name__}); start it, or "
            "name another one with KLING_FLOWS_PREFECT_API_URL"
        ) from error


async def _pool(client: PrefectClient, pool: str, kind: str) -> None:
    try:
        await client.read_work_pool(pool)
        return
    except ObjectNotFound:
        template = await get_default_base_job_template_for_infrastructure_type(kind)
    if template is None:
        raise ConfigurationError("--type", f"Prefect has no work pools of the type {kind!r}; try process")
    try:
        await client.create_work_pool(
            WorkPoolCreate(
                name=pool,
                type=kind,
                description="Videos by kling-flows.",
                base_job_template=template,
                concurrency_limit=None if kind == OUR_TYPE else POOL_LIMIT,
            )
        )
    except ObjectAlreadyExists:
        # Somebody else deploys as well.
        return


async def _queues(client: PrefectClient, pool: str) -> None:
    ours = WorkQueueFilter(name=WorkQueueFilterName(any_=[queue.value for queue in PRIORITIES]))
    # Prefect's client sends null for what is not given here, and its server refuses that.
    found = await client.read_work_queues(work_pool_name=pool, work_queue_filter=ours, limit=len(PRIORITIES), offset=0)
    existing = {queue.name for queue in found}
    for queue, priority in PRIORITIES.items():
        if queue.value not in existing:
            await client.create_work_queue(queue.value, priority=priority, work_pool_name=pool)


async def _deploy(client: PrefectClient, planned: Planned, pool: str) -> UUID:
    limit = planned.concurrency_limit
    deployment = RunnerDeployment.from_flow(
        planned.flow,
        planned.name,
        description=planned.description,
        version=__version__,
        tags=[TAG],
        parameters=dict(planned.parameters),
        schedule=await _schedule(client, planned),
        concurrency_limit=None
        if limit is None
        else ConcurrencyLimitConfig(limit=limit, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        work_pool_name=pool,
        work_queue_name=planned.queue.value,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return await deployment.aapply()


async def _schedule(client: PrefectClient, planned: Planned) -> Schedule | None:
    if planned.cron is None:
        return None
    try:
        await client.read_deployment_by_name(_name(planned))
    except ObjectNotFound:
        return Cron(planned.cron, timezone="UTC", active=not planned.paused, slug=planned.name)
    # What somebody has changed, paused or started stays so.
    return None


def _name(planned: Planned) -> str:
    return f"{planned.flow.name}/{planned.name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Deploy as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kling_flows.flows.deploy", description=__doc__)
    parser.add_argument("--pool", default="kling-flows")
    parser.add_argument("--type", default=OUR_TYPE)
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        deployments = asyncio.run(deploy(given.pool, given.type, given.only))
    except KlingFlowsError as error:
        sys.stderr.write(f"{error.message}\n")
        return error.exit_code
    sys.stdout.write(json.dumps({"pool": given.pool, "deployments": deployments}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
