"""Runs what deploys the flows, in a process of its own: the command line never imports Prefect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from kling_flows.errors import ConfigurationError, KlingFlowsError, ServerUnavailable

#: Longest that it may take, in seconds; it ends by itself before that.
_SECONDS: Final = 180.0


def deploy(api_url: str, pool: str, kind: str, only: Sequence[str]) -> dict[str, Any]:
    """Make the deployments; returns the pool and their names and ids.

    Args:
        api_url: Prefect's.
        pool: Name of the work pool.
        kind: Its type if it has to be created.
        only: Full names of those that are wanted; all, if it is empty.

    Raises:
        ConfigurationError: there is no such type of pool, or no such deployment.
        ServerUnavailable: Prefect's server does not answer.
        KlingFlowsError: it did not work for another reason.
    """
    arguments = ["--pool", pool, "--type", kind, *(part for name in only for part in ("--only", name))]
    done = subprocess.run(  # noqa: S603 (this interpreter and our own module)
        [sys.executable, "-m", "kling_flows.flows.deploy", *arguments],
        env={**os.environ, "PREFECT_API_URL": api_url, "DO_NOT_TRACK": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise _error(lines[-1], done.returncode)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _error(words: str, exit_code: int) -> KlingFlowsError:
    """The error that the process has ended with."""
    if exit_code == ConfigurationError.exit_code:
        setting, _, message = words.partition(": ")
        return ConfigurationError(setting, message)
    return ServerUnavailable(words) if exit_code == ServerUnavailable.exit_code else KlingFlowsError(words)
