"""All steps of one video task, one after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kling_flows.engine.engine import Engine
from kling_flows.engine.keep import archive
from kling_flows.engine.retries import with_retries
from kling_flows.engine.submit import submit
from kling_flows.engine.wait import wait
from kling_flows.errors import ConfigurationError
from kling_flows.ledger import FlowRunRecord, VideoTask

Step = Callable[[Engine, str], Awaitable[VideoTask]]

_AFTER_SUBMIT: Final[tuple[Step, ...]] = (wait, archive)


async def carry(engine: Engine, task_id: str, flow_run: FlowRunRecord | None) -> VideoTask:
    """Carry a task from where it is to its end; stops early where a person has to decide (UNRESOLVED).

    Raises:
        KlingFlowsError: a step failed more often than it is repeated; the task stays where it is.
        LeaseLost: somebody else carries the task.
    """
    check_pinned(engine, await engine.ledger.get(task_id))
    task = await with_retries(lambda: submit(engine, task_id, flow_run))
    for step in _AFTER_SUBMIT:
        task = await with_retries(lambda step=step: step(engine, task_id))
    return task


def check_pinned(engine: Engine, task: VideoTask) -> None:
    """Refuse to carry a task on with another account than the one that it was submitted with.

    Raises:
        ConfigurationError: the settings have changed since; the task stays where it is.
    """
    if task.upstream is None:
        return
    account = engine.client.account
    pinned = (task.upstream.provider, task.upstream.base_url, task.upstream.account)
    if pinned != (account.provider, account.base_url, account.name):
        raise ConfigurationError(
            "KLING_FLOWS_PROVIDER",
            f"videoTasks/{task.id} was submitted to {pinned[1]} with the account {pinned[2]}, but a runner is set to "
            f"{account.base_url} and {account.name}; it goes on when a runner has the former settings",
        )
