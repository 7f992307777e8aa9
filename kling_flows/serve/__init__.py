"""``kling-flows serve``: front, runner and a local Prefect server as supervised child processes."""

from kling_flows.serve.supervisor import run

__all__ = ["run"]
