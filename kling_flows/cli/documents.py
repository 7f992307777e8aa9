"""Messages as JSON."""

from __future__ import annotations

from typing import Any

# The details of an error are of types that JSON can show only if they are known.
import google.rpc.error_details_pb2  # noqa: F401  # pyright: ignore[reportUnusedImport]
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from kling_flows.v1.video_task_pb2 import VideoTask


def document(message: Message) -> dict[str, Any]:
    """``message`` as protobuf's JSON with the protos' field names."""
    try:
        return MessageToDict(message, preserving_proto_field_name=True)
    except TypeError:
        if not isinstance(message, VideoTask):
            raise
        # A later server may attach details of a type that this release does not know.
        known = VideoTask()
        known.CopyFrom(message)
        known.error.ClearField("details")
        return MessageToDict(known, preserving_proto_field_name=True)
