"""An environment of its own for every peer, in a cache folder, so that none depends on what another needs."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.peers.contract import Peer

#: Where the environments are kept; the folder can be deleted at any time.
CACHE_VARIABLE: Final = "PEER_CACHE"

#: Longest time that the installation of one peer may take, in seconds.
INSTALL_SECONDS: Final = 900.0

#: What draws the plots; no dependency of the product.
PLOTTING: Final = ("matplotlib==3.11.2",)

_READY: Final = "installed"
_TAIL_LINES: Final = 12


class NotInstalled(Exception):
    """A peer or a service cannot be installed here; the message is the end of the installer's output."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a peer's commands find what they need.

    Args:
        path: Folders that come first in ``PATH``.
        folder: Where the commands run.
        packages: Installed packages with their versions, as the installer names them.
    """

    path: tuple[Path, ...]
    folder: Path
    packages: tuple[str, ...] = ()


def cache_folder() -> Path:
    """The cache folder; exists afterwards."""
    folder = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "kling-flows-peers")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def install(peer: Peer, cache: Path) -> Environment:
    """Make the environment of a peer, if it is not in the cache.

    Raises:
        NotInstalled: it cannot be made.
    """
    match peer.environment:
        case "python":
            wanted = (peer.folder / "requirements.txt").read_text()
            folder = python_environment(cache, peer.folder.name, tuple(wanted.splitlines()))
            return Environment((folder / "bin",), peer.folder, packages(wanted))
        case "node":
            return _node(peer, cache)
        case "go":
            return Environment((Path(build(peer.folder / "build.sh", cache)).parent,), peer.folder)
        case _:
            return Environment((Path(sys.executable).parent,), peer.folder)


def python_environment(cache: Path, name: str, requirements: Sequence[str]) -> Path:
    """A venv with these requirements, in the cache.

    Raises:
        NotInstalled: it cannot be made.
    """
    folder = cache / f"{name}-{_digest(sys.version, *requirements)}"
    if not (folder / _READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        run(_uv(), "venv", "--quiet", "--python", sys.executable, str(folder))
        listed = folder / "requirements.txt"
        listed.write_text("\n".join(requirements) + "\n")
        run(_uv(), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "-r", str(listed))
        (folder / _READY).touch()
    return folder


def build(script: Path, cache: Path) -> str:
    """Run a peer's own script that builds a program into the cache, if that is not there; answers its path.

    Raises:
        NotInstalled: it failed, or its last line is no path of a program.
    """
    lines = run("sh", str(script), environment={CACHE_VARIABLE: str(cache)}).splitlines()
    if not lines or not os.access(lines[-1], os.X_OK):
        raise NotInstalled(f"{script.parent.name}: build.sh did not end with the path of a program")
    return lines[-1]


def run(*command: str, folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run an installer to its end; answers its output.

    Raises:
        NotInstalled: it failed, is not there or took too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise NotInstalled("\n".join((done.stdout + done.stderr).splitlines()[-_TAIL_LINES:]))
    return done.stdout


def packages(requirements: str) -> tuple[str, ...]:
    """The pins of a requirements file, without comments."""
    lines = (line.partition("#")[0].strip() for line in requirements.splitlines())
    return tuple(line for line in lines if line)


def _node(peer: Peer, cache: Path) -> Environment:
    lock = (peer.folder / "package-lock.json").read_text()
    folder = cache / f"{peer.folder.name}-{_digest(lock)}"
    if not (folder / _READY).exists():
        shutil.rmtree(folder, ignore_errors=True)
        # A module finds its packages beside or above itself only.
        shutil.copytree(peer.folder, folder)
        run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", folder=folder)
        (folder / _READY).touch()
    return Environment((folder / "node_modules" / ".bin",), folder)


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def _digest(*words: str) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]
