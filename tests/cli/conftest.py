from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.front.conftest import rig as rig

from .front import Front, serve


@pytest.fixture
async def front() -> AsyncGenerator[Front]:
    async with serve(Front()) as served:
        yield served
