"""A cancel in Prefect's UI, where a worker acts on it.

Prefect's own workers end the process of the run, and with it only the carrying: whoever comes next would go on with the
video task. So they have to be told that nobody wants it any more. A runner and a worker of ours see to it themselves.
"""

from __future__ import annotations

from typing import Any

import structlog
from prefect import Flow
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.objects import State as PrefectState

from kling_flows.flows.runs import CANCELLED_IN_PREFECT, cancel_video_tasks, video_tasks_in
from kling_flows.ledger import Ledger
from kling_flows.settings import Settings

log = structlog.get_logger(__name__)


async def cancel_videos(flow: Flow[..., Any], flow_run: FlowRun, state: PrefectState[Any]) -> None:
    """Cancel the video tasks that a run's parameters name, in the ledger that this process is set up with.

    An ``on_cancellation`` hook: the worker calls it once the run's process has ended.

    Raises:
        LedgerUnavailable: the ledger cannot be used; Prefect logs it.
    """
    settings = Settings.load()
    async with await Ledger.open(settings.ledger_address) as ledger:
        tasks = await video_tasks_in(ledger, flow_run, settings.tenant)
        tasks = await cancel_video_tasks(ledger, [task.id for task in tasks])
    for task in tasks:
        log.info(CANCELLED_IN_PREFECT, flow_run=str(flow_run.id), video_task=task.id, state=str(task.state))
