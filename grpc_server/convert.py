"""A video task's record as the message that callers get."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from grpc_server.errors import quota_failure
from grpc_server.names import name_of, shown_metadata
from grpc_server.spec import write_spec
from kling_flows.engine.identity import public_text
from kling_flows.errors import ERROR_DOMAIN
from kling_flows.ledger import (
    ArtifactRecord,
    ErrorRecord,
    FlowRunRecord,
    LateVideo,
    QuoteRecord,
    State,
    UpstreamRecord,
    VideoTask,
)
from kling_flows.upstream import UpstreamError
from kling_flows.v1 import video_task_pb2 as pb

_STATES: Final[Mapping[State, pb.VideoTask.State.ValueType]] = {
    state: pb.VideoTask.State.Value(state.value) for state in State
}
_LATE_VIDEOS: Final[Mapping[LateVideo, pb.LateVideo.ValueType]] = {
    late: pb.LateVideo.Value(late.value) for late in LateVideo
}

#: What has run out at the provider, by the reason of the error.
_QUOTAS: Final[Mapping[str, str]] = {
    kind.reason: kind.quota_subject for kind in UpstreamError.__subclasses__() if kind.quota_subject is not None
}

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_DAY_SECONDS: Final = 86_400


def message_of(task: VideoTask, *, full: bool) -> pb.VideoTask:
    """The message; without its spec if not ``full``."""
    created = _timestamp(task.create_time)
    return pb.VideoTask(
        name=name_of(task.id),
        state=_STATES[task.state],
        revision=task.revision,
        text_to_video=write_spec(task.request) if full else None,
        labels=task.labels or None,
        create_time=created,
        update_time=created if task.update_time is task.create_time else _timestamp(task.update_time),
        end_time=_timestamp(task.end_time),
        upstream=None if task.upstream is None else _upstream(task.upstream),
        artifacts=[artifact_message(artifact) for artifact in task.artifacts] or None,
        cost=_cost(task.quote, task.upstream),
        error=None if task.error is None else _error(task.error),
        typical_duration=_duration(task.typical_seconds),
        deadline=_timestamp(task.deadline),
        on_deadline=_LATE_VIDEOS[task.on_deadline],
        priority=task.priority,
        video_pending=task.video_pending,
        flow_run=None if task.flow_run is None else _flow_run(task.flow_run),
    )


def _flow_run(record: FlowRunRecord) -> pb.FlowRun:
    return pb.FlowRun(id=record.id, name=record.name, url=record.url)


def _cost(quote: QuoteRecord | None, upstream: UpstreamRecord | None) -> pb.Cost | None:
    settled = upstream.settled_units if upstream is not None else ""
    if quote is None:
        return pb.Cost(settled_units=settled) if settled else None
    return pb.Cost(quoted_units=quote.units, quoted_usd=quote.usd, uncertainties=quote.uncertain, settled_units=settled)


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
    # No RetryInfo: the step is repeated here, and a caller who repeats the request pays for another video.
    subject = _QUOTAS.get(record.reason)
    if subject is not None:
        status.details.add().Pack(quota_failure(subject, status.message))
    return status


def _timestamp(when: datetime | None) -> Timestamp | None:
    if when is None:
        return None
    # A third of the time that `FromDatetime` takes; this is a good part of a message's cost.
    since = when - _EPOCH
    return Timestamp(seconds=since.days * _DAY_SECONDS + since.seconds, nanos=since.microseconds * 1_000)


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
