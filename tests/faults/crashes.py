"""The crash matrix: a process dies at every boundary between two steps, with many video tasks in flight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.faults.mortal import BOUNDARIES, OF_THE_FRONT, Death
from tests.faults.scenarios import Scenario
from tests.faults.trial import Trial

_TIMES: Final = 4

#: One in so many orders passes a boundary before each death.
_SHARE: Final = 20

_WORDS: Final = {
    "before-create": "before a create is committed",
    "after-create": "after a create is committed, before its answer",
    "before-intent": "before the intent",
    "after-intent": "after the intent, before the POST",
    "during-post": "during the POST, request sent",
    "after-answer": "after the answer, before it is committed",
    "after-commit": "after the answer is committed",
    "while-polling": "while polling",
    "mid-download": "in the middle of a download",
    "before-publish": "after the download, before it is published",
    "before-manifest": "after the video, before its manifest",
    "after-publish": "after publishing, before that is committed",
}


def _deaths(boundary: str) -> Callable[[int], tuple[Death]]:
    def planned(count: int) -> tuple[Death]:
        # A look is for many tasks: after a few there is nothing left to look at.
        return (Death(boundary, 1 if boundary == "while-polling" else max(2, count // _SHARE), _TIMES),)

    return planned


async def _dying(on: Trial, count: int) -> None:
    async with on.ordering(count):
        await on.all_died()


CRASHES: Final = tuple(
    Scenario(
        boundary,
        f"kill -9 of the {'front' if boundary in OF_THE_FRONT else 'runner'} {_WORDS[boundary]}, {_TIMES} times",
        _dying,
        deaths=_deaths(boundary),
    )
    for boundary in BOUNDARIES
)
