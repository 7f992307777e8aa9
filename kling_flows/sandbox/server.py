"""Runs a sandbox: as a process of its own, or in a thread of a test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import uvicorn

from kling_flows.errors import ConfigurationError
from kling_flows.sandbox.app import create_app
from kling_flows.sandbox.callbacks import CallbackRecord
from kling_flows.sandbox.charges import ChargeRecord
from kling_flows.sandbox.connection import ConnectionProtocol
from kling_flows.sandbox.faults import parse_rules
from kling_flows.sandbox.service import SandboxService, Stats, TaskRecord
from kling_flows.sandbox.settings import SandboxSettings

_BACKLOG: Final = 2048
#: Seconds that calls under way get to finish when the server stops.
_GRACE_SECONDS: Final = 2
#: Seconds that an unused connection stays open; short ones race with clients that are about to use them again.
_KEEP_ALIVE_SECONDS: Final = 75
#: Seconds for a server in a thread to start or stop.
_THREAD_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Tls:
    """What https is served with.

    Args:
        certificate: File with the certificate, in PEM.
        key: File with its key, in PEM and without a password.

    Raises:
        ConfigurationError: They cannot be read, or do not belong together.
    """

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(self.certificate, self.key, _no_password)
        except (OSError, ValueError) as error:
            raise ConfigurationError("tls", f"cannot use {self.certificate} with {self.key}: {error}") from error


def _no_password() -> str:
    # Else OpenSSL asks for it on the terminal.
    raise ValueError("the key has a password; give one without")


def announce(url: str) -> None:
    """Print the line that says where the sandbox is."""
    print(f"sandbox listening on {url}", flush=True)  # noqa: T201


def run(
    host: str = "127.0.0.1",
    port: int = 8791,
    *,
    settings: SandboxSettings,
    port_file: Path | None = None,
    ready: Callable[[str], None] = announce,
    tls: Tls | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; returns then.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        settings: The sandbox's settings.
        port_file: Where to write the port once the sandbox answers; appears complete or not at all.
        ready: Called with the sandbox's URL once it answers.
        tls: What to serve https with; ``None`` for http.

    Raises:
        ConfigurationError: The address cannot be used, or rendering is wanted and its packages are not installed.
    """

    def started(url: str) -> None:
        if port_file is not None:
            _write_atomically(port_file, url.rpartition(":")[2])
        ready(url)

    with _listen(host, port) as listener, contextlib.closing(SandboxService(settings)) as service:
        _Server(service, started, tls).run(sockets=[listener])


class SandboxServer:
    """A sandbox in a thread of this process, on a free port; a context manager.

    Args:
        settings: The sandbox's settings.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        tls: What to serve https with; ``None`` for http.

    Raises:
        ConfigurationError: As :func:`run`.
    """

    def __init__(
        self,
        settings: SandboxSettings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
    ) -> None:
        self._service = SandboxService(settings or SandboxSettings())
        self._started = threading.Event()
        self._server = _Server(self._service, self._note_started, tls)
        self._listener = _listen(host, port)
        self._thread = threading.Thread(target=self._serve, name="sandbox", daemon=True)
        #: Base URL without a trailing slash; CometAPI's surface is below ``/kling``.
        self.url = _url_of(self._listener, tls)

    def __enter__(self) -> Self:
        """Start; returns once the sandbox answers."""
        self._thread.start()
        if not self._started.wait(_THREAD_SECONDS):
            raise RuntimeError("the sandbox did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop; returns once the port is free."""
        self._server.should_exit = True
        self._thread.join(_THREAD_SECONDS)

    def charges(self) -> list[ChargeRecord]:
        """What ``GET /sandbox/charges`` lists."""
        return self._service.charges.records()

    def stats(self) -> Stats:
        """What ``GET /sandbox/stats`` answers."""
        return self._service.stats()

    def tasks(self) -> list[TaskRecord]:
        """What ``GET /sandbox/tasks`` lists."""
        return self._service.task_records()

    def callbacks(self) -> list[CallbackRecord]:
        """What ``GET /sandbox/callbacks`` lists."""
        return self._service.callbacks.records()

    def set_faults(self, rules: Sequence[Mapping[str, object]]) -> None:
        """Put fault rules in force instead of the present ones; an empty list for none.

        Args:
            rules: As ``PUT /sandbox/faults`` takes them; see :class:`~kling_flows.sandbox.faults.Rule`.

        Raises:
            pydantic.ValidationError: A rule is not well formed.
        """
        self._service.faults.replace(parse_rules(list(rules)))

    def _note_started(self, url: str) -> None:
        self._started.set()

    def _serve(self) -> None:
        with self._listener, contextlib.closing(self._service):
            self._server.run(sockets=[self._listener])


class _Server(uvicorn.Server):
    """Uvicorn, told where to report that it has started, and ending like any program when it is asked to."""

    def __init__(self, service: SandboxService, started: Callable[[str], None], tls: Tls | None) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service),
                http=ConnectionProtocol,
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                log_level="warning",
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
                ssl_certfile=None if tls is None else tls.certificate,
                ssl_keyfile=None if tls is None else tls.key,
            )
        )
        self._service = service
        self._tls = tls
        self._report = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then report."""
        await super().startup(sockets)
        if sockets:
            self._report(_url_of(sockets[0], self._tls))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the callbacks, then serving."""
        await self._service.stop()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGINT and SIGTERM.

        Uvicorn's own way raises the signal once more after the server has stopped, which would end the process by it
        and deny the caller of :func:`run` its next line.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit and number == signal.SIGINT
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ConfigurationError("port", f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _url_of(listener: socket.socket, tls: Tls | None) -> str:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = "127.0.0.1"
    scheme = "http" if tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)
