"""What of a task a caller wants to read: a view, or a mask with the fields by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask

from grpc_server.convert import message_of
from grpc_server.views import parse_view
from kling_flows.errors import Violation
from kling_flows.ledger import VideoTask
from kling_flows.v1 import video_task_pb2 as pb

_ALL: Final = "*"
_SHOWN: Final = 80
_SPECS: Final = frozenset(field.name for field in pb.VideoTask.DESCRIPTOR.oneofs_by_name["spec"].fields)


@dataclass(frozen=True, slots=True)
class Reading:
    """How tasks are shown.

    Args:
        full: Whether the spec is needed.
        paths: The fields that are shown; empty: all.
    """

    full: bool
    paths: tuple[str, ...] = ()

    def show(self, task: VideoTask) -> pb.VideoTask:
        """The task as the caller wants it."""
        message = message_of(task, full=self.full)
        if not self.paths:
            return message
        shown = pb.VideoTask()
        FieldMask(paths=self.paths).MergeMessage(message, shown)
        return shown


def parse_reading(view: int, mask: FieldMask, violations: list[Violation]) -> Reading:
    """Read both; a mask wins. What is wrong is added to ``violations``."""
    full = parse_view(view, violations)
    paths = sorted(set(mask.paths))
    if not paths:
        return Reading(full)
    bad = [violation for path in paths if path != _ALL and (violation := _check(path)) is not None]
    violations.extend(bad)
    if bad or _ALL in paths:
        return Reading(full=True)
    return Reading(full=any(path.partition(".")[0] in _SPECS for path in paths), paths=tuple(paths))


def _check(path: str) -> Violation | None:
    """What is wrong with a path into a VideoTask, if anything."""
    message: Descriptor | None = pb.VideoTask.DESCRIPTOR
    for name in path.split("."):
        if message is None:
            return _violation(path, "goes into a field that is taken as a whole: a list, a map or a plain value")
        field: FieldDescriptor | None = message.fields_by_name.get(name)
        if field is None:
            what = f"has no field {name[:_SHOWN]!r}; it has {', '.join(message.fields_by_name)}"
            return Violation("read_mask", "UNKNOWN_FIELD", f"{path[:_SHOWN]!r}: {message.name} {what}")
        message = None if field.is_repeated else field.message_type
    return None


def _violation(path: str, what: str) -> Violation:
    return Violation("read_mask", "MALFORMED", f"{path[:_SHOWN]!r} {what}")
