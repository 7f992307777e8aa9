"""A runner with a bug, for the test that the checker can find one: after an unknown outcome it does not look."""

from __future__ import annotations

import secrets
import sys

from kling_flows.engine import submit as module
from kling_flows.engine.engine import Engine
from kling_flows.ledger import VideoTask
from kling_flows.runner.__main__ import main


async def _settle_carelessly(engine: Engine, task: VideoTask) -> VideoTask | None:
    """Take it that nothing was created, and send the next request under another external id."""

    def change(before: VideoTask) -> VideoTask:
        assert before.upstream is not None
        fresh = f"{before.upstream.external_task_id[:40]}-{secrets.token_hex(4)}"
        return before.model_copy(update={"upstream": before.upstream.model_copy(update={"external_task_id": fresh})})

    await engine.advance(task.id, change)
    return None


module._settle = _settle_carelessly

if __name__ == "__main__":
    sys.exit(main())
