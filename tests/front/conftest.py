from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from .access import ADS, NEWS, READER, entry
from .rig import Rig, Served


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Rig]:
    # Nothing of the machine's own configuration.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    async with AsyncExitStack() as stack:
        yield Rig(tmp_path, stack)


@pytest.fixture
async def served(rig: Rig) -> Served:
    return await rig.serve()


@pytest.fixture
def access_file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(entry("ads", ADS, "ads") + entry("news", NEWS, "news") + entry("reader", READER, "ads", '"read"'))
    return path


@pytest.fixture
async def guarded(rig: Rig, access_file: Path) -> Served:
    return await rig.serve(access_file=access_file)
