"""A PostgreSQL server of our own: its binaries come with a package, its data lives as long as the tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.services import postgres_binaries
from tests.stack import free_port, until

#: Nobody's: PostgreSQL refuses to run as root.
_UID = 65534

_SETTINGS = {
    # What is lost with the machine is not what these tests are about; what is lost with the server is.
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
    "autovacuum": "off",
}

PASSWORD = "s3cret-w0rd"

#: Where every host connection needs the password, and the socket none.
_ACCESS = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer:
    """A server on a socket in a folder of its own, and on a port of 127.0.0.1 with a password.

    Args:
        folder: Empty, with a short name.
        binaries: Folder of postgres and initdb; by default those of the development dependencies.
    """

    def __init__(self, folder: Path, binaries: Path | None = None) -> None:
        self.folder = folder
        self._programs = binaries or postgres_binaries()
        self.port = free_port()
        self._child: subprocess.Popen[bytes] | None = None
        # The password goes over a file: a command line is for all to read.
        password = folder / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (folder, password):
                os.chown(path, _UID, _UID)
        self._run("initdb", "-D", str(self._data), "-U", "kling", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
                  "--pwfile", str(password))  # fmt: skip
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str) -> str:
        """By the socket."""
        return f"postgresql://kling@/{database}?host={self.folder}&port={self.port}"

    def host_url(self, database: str, password: str = PASSWORD) -> str:
        """By the port."""
        return f"postgresql://kling:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = [f"{name}={value}" for name, value in _SETTINGS.items()]
        command = [
            str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.folder), "-p", str(self.port),
            "-h", "127.0.0.1", *(word for option in options for word in ("-c", option)),
        ]  # fmt: skip
        with open(self.folder / "log", "ab") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, **_as_nobody())
        until(self._answers, f"PostgreSQL starts: {(self.folder / 'log').read_text()}", 60)

    def stop(self, how: int = signal.SIGINT) -> None:
        """End it: SIGINT at once but in order, SIGQUIT as if it had crashed."""
        assert self._child is not None
        self._child.send_signal(how)
        self._child.wait(60)
        self._child = None

    def _answers(self) -> bool:
        assert self._child is not None
        assert self._child.poll() is None, (self.folder / "log").read_text()
        asked = subprocess.run(
            [postgres_binaries() / "pg_isready", "-q", "-h", str(self.folder), "-p", str(self.port)],
            check=False,
            timeout=20,
        )
        return asked.returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], capture_output=True, text=True, check=False, timeout=120,
            stdin=subprocess.DEVNULL, cwd=self.folder, **_as_nobody(),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _as_nobody() -> dict[str, object]:
    return {"user": _UID, "group": _UID, "extra_groups": []} if os.geteuid() == 0 else {}


@contextmanager
def postgres_server(binaries: Path | None = None) -> Iterator[PostgresServer]:
    """A running server; its folder's name is short because that of a socket has to be."""
    folder = Path(tempfile.mkdtemp(prefix="kf-pg-"))
    server = None
    try:
        server = PostgresServer(folder, binaries)
        server.start()
        yield server
    finally:
        if server is not None and server._child is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
