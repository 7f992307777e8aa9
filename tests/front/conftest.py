from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from grpc_server import interceptors
from grpc_server.errors import is_public
from kling_flows.errors import KlingFlowsError

from .access import ADS, NEWS, READER, entry
from .documented import documented
from .rig import Rig, Served


@pytest.fixture(autouse=True)
def no_undocumented_refusals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever an RPC is refused with in these tests stands beside it in the proto."""
    unknown: set[tuple[str, str, str]] = set()

    async def noting(context: object, method: str, error: Exception) -> None:
        name, ending = method.rpartition("/")[2], ("INTERNAL", "INTERNAL")
        if isinstance(error, KlingFlowsError) and is_public(error):
            ending = (error.grpc_code, error.reason)
        if ending not in documented().get(name, {ending}):
            unknown.add((name, *ending))
        await abort(context, method, error)

    abort: Any = interceptors.__dict__["_abort"]
    monkeypatch.setattr(interceptors, "_abort", noting)
    yield
    assert not unknown, f"not in the proto: {unknown}"


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
