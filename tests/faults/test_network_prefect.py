"""A gateway in front of Prefect that answers 503, always or now and then: no order is lost or paid twice."""

from __future__ import annotations

import asyncio
import random
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from kling_flows.v1.video_task_pb2 import VideoTask
from tests.clients.proxy import Proxy
from tests.faults.trial import PREFECT, RUNNER, Trial, trial
from tests.stack import clean_environment, process

pytestmark = [pytest.mark.xdist_group("prefect-503"), pytest.mark.timeout(900), pytest.mark.full]

_PATIENCE = 400.0

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class _Gateway(Proxy):
    """Answers a share of the connections itself."""

    share: float = 0.0

    def refuse(self, share: float) -> None:
        self.share = share
        # Those that stand would not notice.
        self.cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if random.random() >= self.share:
            await super()._connect(reader, writer)
            return
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_REFUSAL)
            await writer.drain()


async def _all_submitted(on: Trial) -> None:
    await on.until(lambda: on.reached(VideoTask.SUBMITTED) == len(on.prompts), "all are submitted")


async def test_prefect_answers_503_while_tasks_are_in_every_phase(tmp_path: Path) -> None:
    async with trial(tmp_path, "--role", "front", seconds="1:10", patience=_PATIENCE) as on:
        listen = on.settings["KLING_FLOWS_PREFECT_LISTEN"]
        environment = clean_environment(**on.settings, PREFECT_HOME=str(tmp_path / "state" / "prefect"))
        host, _, port = listen.rpartition(":")
        async with _Gateway(listen) as gateway:
            through = {**environment, "KLING_FLOWS_PREFECT_API_URL": f"http://{gateway.address}/api"}
            log = tmp_path / "runner.log"
            prefect = (sys.executable, "-m", PREFECT, host, port)
            with (
                process(*prefect, environment=environment, log=tmp_path / "prefect.log"),
                process(sys.executable, "-m", RUNNER, environment=through, log=log),
            ):
                await on.create(10)
                await _all_submitted(on)
                gateway.refuse(1.0)
                await on.create(10)
                await on.until(lambda: "Prefect is away" in log.read_text(), "the runner goes without")
                await _all_submitted(on)
                gateway.refuse(0.0)
                await on.until(lambda: "Prefect is back" in log.read_text(), "the runner comes back")
                gateway.refuse(0.3)
                await on.create(20)
                audit = await on.finish()
        assert audit.findings == ()
