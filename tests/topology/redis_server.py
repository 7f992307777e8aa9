"""A Redis server of our own, with the options of deployments/compose."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deployments.files import compose
from tests.stack import clean_environment, free_port, process, until

from . import binaries


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """The port of 127.0.0.1 at which it answers."""
    programs, port = binaries.redis(), free_port()
    here = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder))
    command = (str(programs / "redis-server"), *compose()["services"]["redis"]["command"][1:], *here)
    with process(*command, environment=clean_environment(), log=folder / "redis.log") as child:

        def answers() -> bool:
            assert child.poll() is None, (folder / "redis.log").read_text()
            ping = [programs / "redis-cli", "-p", str(port), "ping"]
            return subprocess.run(ping, capture_output=True, check=False).stdout == b"PONG\n"

        until(answers, "Redis answers")
        yield port
