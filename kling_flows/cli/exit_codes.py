"""Exit codes: one for each way in which a caller has to react."""

from __future__ import annotations

import importlib
from typing import Final

from kling_flows.errors import KlingFlowsError

INTERRUPTED: Final = 130
#: Of ``doctor``.
PROBLEMS: Final = 15

#: What each code means; 1 and 3 to 14 come from the classes of :mod:`kling_flows.errors`.
MEANINGS: Final[dict[int, str]] = {
    0: "ok",
    1: "internal error",
    2: "usage: the command line is wrong",
    3: "the request is invalid; every broken rule is listed",
    4: "the configuration is invalid, or a key is missing",
    5: "no such video task",
    6: "the id is taken, or the request id was used for another request",
    7: "the video task's state does not allow it",
    8: "the server is unavailable, or its queue is full; try again later",
    9: "the provider refused our key or permission",
    10: "the video failed, at the provider or by its rules, or for want of units or budget",
    11: "the video task was cancelled",
    12: "the video task's deadline passed",
    13: "it is unknown whether the provider accepted the task; a person decides",
    14: "the video was made and billed, and deleted by the provider before it could be archived",
    PROBLEMS: "doctor has found problems",
    INTERRUPTED: "interrupted; a video task goes on by itself",
}

EPILOG: Final = "\n".join(["Exit codes:", *(f"{code:>4}  {meaning}" for code, meaning in MEANINGS.items())])


def exit_code_of(reason: str) -> int:
    """The exit code of the error class with this ``google.rpc.ErrorInfo.reason``; 1 if there is none.

    Where classes share a reason, the one nearest to the callers of the facade decides: :mod:`kling_flows.errors` before
    the provider's.
    """
    code = _find(KlingFlowsError, reason)
    if code is None:
        # The provider's errors come with all of its client, which only this case is worth waiting for.
        importlib.import_module("kling_flows.upstream.errors")
        code = _find(KlingFlowsError, reason)
    return KlingFlowsError.exit_code if code is None else code


def _find(error_class: type[KlingFlowsError], reason: str) -> int | None:
    if error_class.reason == reason:
        return error_class.exit_code
    for subclass in error_class.__subclasses__():
        code = _find(subclass, reason)
        if code is not None:
            return code
    return None
