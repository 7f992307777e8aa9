"""What the protos say beside each RPC about the statuses that it can end with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from kling_flows.v1.video_task_service_pb2 import DESCRIPTOR
from tests.stack import ROOT

_METHOD = re.compile(r"((?:^  //.*\n)+)^  rpc (\w+)\(", re.MULTILINE)
_PAIR = re.compile(r"`([A-Z_]+)` / `([A-Z_]+)`")

#: A status and a reason.
Ending = tuple[str, str]


@cache
def documented() -> Mapping[str, frozenset[Ending]]:
    """By method."""
    source = (ROOT / "protos" / DESCRIPTOR.name).read_text()
    return {
        name: frozenset((code, reason) for code, reason in _PAIR.findall(comment.partition("Errors:")[2]))
        for comment, name in _METHOD.findall(source)
    }


def scopes() -> Mapping[str, str]:
    """The scope that each method's comment asks for."""
    source = (ROOT / "protos" / DESCRIPTOR.name).read_text()
    return {
        name: " ".join(re.findall(r"without\s+(?://\s+)?the scope `(\w+)`", comment))
        for comment, name in _METHOD.findall(source)
    }
