"""A video task's record as the message that callers get."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from grpc_server.names import name_of, shown_metadata
from grpc_server.spec import write_spec
from kling_flows.engine.identity import public_text
from kling_flows.errors import ERROR_DOMAIN
from kling_flows.ledger import ArtifactRecord, ErrorRecord, LateVideo, State, UpstreamRecord, VideoTask
from kling_flows.v1 import video_task_pb2 as pb

_STATES: Final[Mapping[State, pb.VideoTask.State.ValueType]] = {
    state: pb.VideoTask.State.Value(state.value) for state in State
}
_LATE_VIDEOS: Final[Mapping[LateVideo, pb.LateVideo.ValueType]] = {
    late: pb.LateVideo.Value(late.value) for late in LateVideo
}


def message_of(task: VideoTask, *, full: bool) -> pb.VideoTask:
    """The message; without its spec if not ``full``."""
    message = pb.VideoTask(
        name=name_of(task.id),
        state=_STATES[task.state],
        revision=task.revision,
        text_to_video=write_spec(task.request) if full else None,
        labels=task.labels,
        create_time=_timestamp(task.create_time),
        update_time=_timestamp(task.update_time),
        end_time=_timestamp(task.end_time),
        artifacts=[artifact_message(artifact) for artifact in task.artifacts],
        deadline=_timestamp(task.deadline),
        on_deadline=_LATE_VIDEOS[task.on_deadline],
        priority=task.priority,
        video_pending=task.video_pending,
    )
    if task.upstream is not None:
        message.upstream.CopyFrom(_upstream(task.upstream))
        if task.upstream.settled_units:
            message.cost.settled_units = task.upstream.settled_units
    if task.quote is not None:
        message.cost.quoted_units = task.quote.units
        message.cost.quoted_usd = task.quote.usd
        message.cost.uncertainties.extend(task.quote.uncertain)
    if task.error is not None:
        message.error.CopyFrom(_error(task.error))
    if task.typical_seconds is not None:
        message.typical_duration.FromNanoseconds(round(task.typical_seconds * 1e9))
    if task.flow_run is not None:
        message.flow_run.CopyFrom(pb.FlowRun(id=task.flow_run.id, name=task.flow_run.name, url=task.flow_run.url))
    return message


def _upstream(record: UpstreamRecord) -> pb.Upstream:
    return pb.Upstream(
        provider=record.provider,
        dialect=record.dialect,
        account=record.account,
        external_task_id=record.external_task_id,
        task_id=record.task_id,
        request_id=record.request_id,
        status=record.status,
        status_message=record.status_message,
        intent_time=_timestamp(record.intent_time),
        submit_time=_timestamp(record.submit_time),
        end_time=_timestamp(record.end_time),
        submit_attempts=record.submit_attempts,
    )


def artifact_message(record: ArtifactRecord) -> pb.Artifact:
    """A file's facts."""
    return pb.Artifact(
        kind=pb.Artifact.Kind.Value(record.kind),
        uri=record.uri,
        size_bytes=record.size_bytes,
        sha256=bytes.fromhex(record.sha256),
        media_type=record.media_type,
        duration_seconds=record.duration_seconds or 0.0,
        manifest_uri=record.manifest_uri,
    )


def _error(record: ErrorRecord) -> Status:
    # The code is text in the ledger; one that a newer release wrote is at least an error.
    code = grpc.StatusCode.__members__.get(record.grpc_code, grpc.StatusCode.UNKNOWN)
    status = Status(code=code.value[0], message=public_text(record.message))
    info = ErrorInfo(domain=ERROR_DOMAIN, reason=record.reason, metadata=shown_metadata(record.metadata))
    status.details.add().Pack(info)
    return status


def _timestamp(when: datetime | None) -> Timestamp | None:
    if when is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(when)
    return stamp
