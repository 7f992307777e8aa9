"""From a prompt to a video on a machine where nothing is set up: the sandbox, our servers, one video, and all gone."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from rich.text import Text

from kling_flows.cli.children import Child, ChildFailed, tail
from kling_flows.cli.client import VideoTaskClient
from kling_flows.cli.describe import plain_path, rows_text, size, video_of
from kling_flows.cli.generation import Generation
from kling_flows.cli.outcome import tell
from kling_flows.cli.output import Output
from kling_flows.cli.progress import progress_for
from kling_flows.cli.request import short_id
from kling_flows.errors import ArchiveError, ConfigurationError
from kling_flows.processes import READY_VARIABLE
from kling_flows.v1.text_to_video_pb2 import TextToVideo
from kling_flows.v1.video_task_pb2 import Artifact, VideoTask
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

PROMPT: Final = (
    "A paper boat with a lantern drifts down a rain-washed street at dusk, past lit windows, "
    "while the first stars come out between the clouds"
)

_SERVE_LOG: Final = "serve.log"
_READY_SECONDS: Final = 60.0
_VIDEO_SECONDS: Final = 300.0
_LOOK_SECONDS: Final = 0.25
_COPY_BYTES: Final = 1024 * 1024

#: What a user has set for real work: the demo must neither use the keys nor write into the ledger that they name.
_USERS_OWN: Final = ("KLING_", "COMETAPI_", "PREFECT_")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How the demo runs.

    Args:
        prompt: What the video shows.
        folder: Where the video goes.
        state_dir: Where the servers keep their data; None for a temporary folder.
        keep: Whether a temporary folder stays.
        keep_running: Whether the servers stay until Ctrl-C.
    """

    prompt: str
    folder: Path
    state_dir: Path | None = None
    keep: bool = False
    keep_running: bool = False


def run(options: DemoOptions, output: Output) -> int:
    """Make one video and put it into the folder.

    Returns:
        The exit code.

    Raises:
        ChildFailed: a server did not do its part.
        ConfigurationError: a folder cannot be used.
        ArchiveError: the video is not what the server said that it is.
    """
    _make_folder("--output", options.folder)
    with _interrupted_by_signals(), _state(options, output) as state:
        try:
            code = _run(options, state.folder, output)
        except ChildFailed as error:
            output.complain(Text(tail(error.log), "dim"))
            raise
        except KeyboardInterrupt:
            state.keep = options.keep
            raise
        if code:
            output.complain(Text(tail(state.folder / _SERVE_LOG), "dim"))
        state.keep = options.keep or code != 0
        return code


def _run(options: DemoOptions, state: Path, output: Output) -> int:
    with _running(state, output) as (address, children):
        _step(output, "prompt", options.prompt)
        task = asyncio.run(_generate(options.prompt, address, children, output))
        video = video_of(task)
        if task.state != VideoTask.SUCCEEDED or video is None:
            return tell(task, output)
        copy = _copy(video, options.folder / f"{short_id(task.name)}.mp4")
        _tell_video(task, video, copy, output)
        if options.keep_running:
            _stay(address, children, output)
    if not options.keep_running:
        output.note("Prefect's page has gone with them; to look at it: kling-flows demo --keep-running")
    return 0


@contextmanager
def _running(state: Path, output: Output) -> Generator[tuple[str, Sequence[Child]]]:
    """The servers: the front's address, and their processes."""
    with ExitStack() as stack:
        environment = _environment(state)
        sandbox = stack.enter_context(_sandbox(state, environment))
        port = sandbox.wait_for(state / "sandbox.port", _READY_SECONDS)
        url = f"http://127.0.0.1:{port}"
        _step(output, "sandbox", f"a stand-in for Kling at {url}, no key needed")
        ready = state / "front.address"
        ready.unlink(missing_ok=True)
        servers = stack.enter_context(_servers(state, environment, url, ready))
        address = servers.wait_for(ready, _READY_SECONDS)
        _step(output, "server", f"gRPC at {address}")
        _step(output, "prefect", "starting; the first video waits for it, about 10 s")
        try:
            yield address, (sandbox, servers)
        finally:
            output.note("Stopping the servers.")


def _sandbox(state: Path, environment: Mapping[str, str]) -> Child:
    # Without the extra `sandbox` every prompt gets the same small clip.
    rendered = importlib.util.find_spec("av") is not None and importlib.util.find_spec("PIL") is not None
    port_file = state / "sandbox.port"
    port_file.unlink(missing_ok=True)
    arguments = ("sandbox", "--port", "0", "--port-file", str(port_file), "--video", "rendered" if rendered else "tiny")
    return Child("sandbox", "kling_flows.cli", arguments, environment=environment, log=state / "sandbox.log")


def _servers(state: Path, environment: dict[str, str], url: str, ready: Path) -> Child:
    settings = {
        "KLING_FLOWS_PROVIDER": "sandbox",
        "KLING_FLOWS_UPSTREAM_URL": url,
        "KLING_FLOWS_STATE_DIR": str(state),
        "KLING_FLOWS_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_PREFECT_LISTEN": "127.0.0.1:0",
        "KLING_FLOWS_POLL_INTERVAL": "1",
        READY_VARIABLE: str(ready),
    }
    return Child("serve", "kling_flows.cli", ("serve",), environment=environment | settings, log=state / _SERVE_LOG)


def _environment(state: Path) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_USERS_OWN)}
    # An empty file in place of the user's own, which may name keys, an archive and a ledger.
    config = state / "config.toml"
    config.touch()
    environment["KLING_FLOWS_CONFIG"] = str(config)
    for name in ("NO_PROXY", "no_proxy"):
        environment[name] = ",".join(filter(None, (environment.get(name), "127.0.0.1", "localhost")))
    return environment


async def _generate(prompt: str, address: str, children: Sequence[Child], output: Output) -> VideoTask:
    request = CreateVideoTaskRequest(
        video_task=VideoTask(text_to_video=TextToVideo(prompt=prompt)), request_id=str(uuid.uuid4())
    )
    progress = progress_for(output)
    async with VideoTaskClient(address) as client:
        with progress.shown():
            running = asyncio.create_task(Generation(request).run(client, progress))
            try:
                deadline = time.monotonic() + _VIDEO_SECONDS
                while not running.done():
                    for child in children:
                        child.check()
                    if time.monotonic() > deadline:
                        raise ChildFailed("serve", f"has made no video after {_VIDEO_SECONDS:.0f} s", children[-1].log)
                    await asyncio.wait({running}, timeout=_LOOK_SECONDS)
                return await running
            finally:
                running.cancel()


def _copy(video: Artifact, to: Path) -> Path:
    draft = to.with_name(f".{to.name}.part")
    digest = hashlib.sha256()
    try:
        with Path(plain_path(video.uri)).open("rb") as source, draft.open("wb") as target:
            while chunk := source.read(_COPY_BYTES):
                digest.update(chunk)
                target.write(chunk)
        if digest.digest() != video.sha256:
            raise ArchiveError(f"{video.uri} is not the file whose SHA-256 the server knows")
        return draft.replace(to)
    except OSError as error:
        raise ArchiveError(f"{video.uri} cannot be copied to {to}: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _tell_video(task: VideoTask, video: Artifact, copy: Path, output: Output) -> None:
    if output.quiet:
        output.line(str(copy))
        return
    rows = [("video", str(copy)), ("size", size(video.size_bytes)), ("sha256", f"{video.sha256.hex()} (verified)")]
    if task.flow_run.url:
        rows.append(("prefect run", task.flow_run.url))
    output.result(rows_text(rows))


def _stay(address: str, children: Sequence[Child], output: Output) -> None:
    output.note(f"The servers run until Ctrl-C. One more: kling-flows generate --server {address} 'a fox wakes'")
    try:
        while True:
            for child in children:
                child.check()
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        return


def _step(output: Output, name: str, words: str) -> None:
    output.note(f"{name:<12}{words}", style="")


@dataclass(slots=True)
class _State:
    """Where the servers keep their data; a temporary folder is kept unless everything went well."""

    folder: Path
    keep: bool = True


@contextmanager
def _state(options: DemoOptions, output: Output) -> Generator[_State]:
    if options.state_dir is not None:
        _make_folder("--state-dir", options.state_dir)
        yield _State(options.state_dir.absolute())
        return
    state = _State(Path(tempfile.mkdtemp(prefix="kling-flows-demo-")))
    try:
        yield state
    finally:
        if state.keep:
            output.note(f"The servers' data and logs are in {state.folder}")
        else:
            shutil.rmtree(state.folder, ignore_errors=True)


@contextmanager
def _interrupted_by_signals() -> Generator[None]:
    """End our children also when a service manager or a closed terminal ends us."""
    # What `nohup` ignores stays ignored.
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    handlers: dict[int, Callable[[int, FrameType | None], object]] = dict.fromkeys(numbers, _like_ctrl_c)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A shell ignores it for what a script puts into the background, and what the others become would be lost.
        handlers[signal.SIGINT] = signal.default_int_handler
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _like_ctrl_c(number: int, frame: FrameType | None) -> None:
    # A signal and not an exception: asyncio turns the signal into a cancellation, while an exception in the midst of
    # gRPC's callbacks ends the process with a segmentation fault.
    signal.raise_signal(signal.SIGINT)


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(option, f"{folder} cannot be used: {error.strerror or error}") from error
