"""A Prefect worker of our own: hundreds of async flow runs in one process."""

from kling_flows.worker.worker import KlingFlowsWorker

__all__ = ["KlingFlowsWorker"]
