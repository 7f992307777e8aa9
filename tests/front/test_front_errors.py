"""The one mapping from our errors to statuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo

from grpc_server.convert import message_of
from grpc_server.errors import internal_status, is_public, status_of
from kling_flows.errors import (
    ArchiveError,
    BudgetExceeded,
    ConfigurationError,
    CredentialsMissing,
    InvalidRequest,
    KlingFlowsError,
    LeaseLost,
    RateLimited,
    VideoTaskNotFound,
    Violation,
)
from kling_flows.ledger import ErrorRecord, State
from kling_flows.upstream import UpstreamError
from kling_flows.v1.error_reason_pb2 import ErrorReason

from .rig import new_record


def _tree(root: type[KlingFlowsError]) -> Iterator[type[KlingFlowsError]]:
    yield root
    for child in root.__subclasses__():
        # What the command line raises stays on this side of the wire.
        if child.__module__.startswith("kling_flows.") and not child.__module__.startswith("kling_flows.cli."):
            yield from _tree(child)


CLASSES = sorted(set(_tree(KlingFlowsError)) - {LeaseLost}, key=lambda kind: kind.__name__)
ABSTRACT = {KlingFlowsError, UpstreamError}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_that_can_reach_the_wire_has_its_reason_in_the_contract(kind: type[KlingFlowsError]) -> None:
    name = "ERROR_REASON_INTERNAL" if kind.reason == "INTERNAL" else kind.reason

    assert name in ErrorReason.keys()  # noqa: SIM118 - not a mapping
    assert kind.grpc_code in grpc.StatusCode.__members__


def test_every_reason_of_the_contract_belongs_to_an_error() -> None:
    known = {kind.reason for kind in CLASSES} | {"ERROR_REASON_UNSPECIFIED", "ERROR_REASON_INTERNAL"}

    assert set(ErrorReason.keys()) <= known


def _made(kind: type[KlingFlowsError]) -> KlingFlowsError:
    if issubclass(kind, InvalidRequest):
        return kind([Violation("a.b", "TOO_LONG", "is too long")])
    if issubclass(kind, ConfigurationError):
        return kind("KLING_API_KEY", "is missing")
    if issubclass(kind, BudgetExceeded):
        return kind("what happened", subject="tenant:*/account:*/month")
    if issubclass(kind, RateLimited):
        return kind("what happened", subject="tenant:a", retry_after=1.0)
    return kind("what happened")


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind not in ABSTRACT], ids=lambda kind: kind.__name__)
def test_every_error_becomes_a_status_with_its_code_and_reason(kind: type[KlingFlowsError]) -> None:
    error = _made(kind)
    status = status_of(error)
    info = ErrorInfo()

    assert is_public(error)
    assert status.code == grpc.StatusCode[kind.grpc_code].value[0]
    assert status.message == error.message
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == ("kling-flows", kind.reason)
    retryable = any(detail.Is(RetryInfo.DESCRIPTOR) for detail in status.details)
    if isinstance(error, UpstreamError):
        # An ambiguous one is UNAVAILABLE too, and must be looked up before anything is sent again.
        assert retryable is error.retryable
    else:
        assert retryable is (kind.grpc_code == "UNAVAILABLE" or kind.reason in ("QUEUE_FULL", "RATE_LIMITED"))
    quota = any(detail.Is(QuotaFailure.DESCRIPTOR) for detail in status.details)
    exhausted = kind.grpc_code == "RESOURCE_EXHAUSTED" and kind.reason != "QUEUE_FULL"
    assert quota is (exhausted if not isinstance(error, UpstreamError) else error.quota_subject is not None)
    assert any(detail.Is(BadRequest.DESCRIPTOR) for detail in status.details) is (kind is InvalidRequest)


@pytest.mark.parametrize(
    ("reason", "subject"),
    [
        ("UPSTREAM_BILLING", "account:units"),
        ("UPSTREAM_CONCURRENCY", "account:concurrent-tasks"),
        ("UPSTREAM_AUTH", ""),
    ],
)
def test_a_task_says_what_has_run_out_and_never_asks_to_be_repeated(reason: str, subject: str) -> None:
    record = ErrorRecord(reason=reason, grpc_code="RESOURCE_EXHAUSTED", message="no units are left")
    task = new_record("v").model_copy(update={"state": State.FAILED, "error": record})
    details = message_of(task, full=False).error.details
    quota = QuotaFailure()

    assert [detail.Unpack(quota) for detail in details] == [False, *([True] if subject else [])]
    assert [violation.subject for violation in quota.violations] == ([subject] if subject else [])


@pytest.mark.parametrize("error", [LeaseLost("x"), KlingFlowsError("x"), UpstreamError("x"), KeyError("x")])
def test_what_is_no_business_of_callers_is_internal(error: Exception) -> None:
    assert not is_public(error)


def test_an_internal_status_says_only_where_to_look() -> None:
    status = internal_status("abc")
    info = ErrorInfo()

    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("INTERNAL", {"incident": "abc"})


def test_a_long_message_or_value_is_cut_between_characters() -> None:
    status = status_of(VideoTaskNotFound("🐈" * 1_000, metadata={"a": "猫" * 1_000}))
    info = ErrorInfo()
    status.details[0].Unpack(info)

    assert len(status.message.encode()) <= 600
    assert status.message.endswith("🐈…")
    assert len(info.metadata["a"].encode()) <= 256


def test_a_status_is_never_larger_than_a_trailer_may_be() -> None:
    violations = [Violation("f" * 100, "TOO_LONG", "猫" * 1_000) for _ in range(1_000)]
    status = status_of(InvalidRequest(violations))

    assert status.ByteSize() < 6_000


def test_errors_with_a_setting_name_it() -> None:
    info = ErrorInfo()
    status_of(CredentialsMissing("COMETAPI_KEY", "is not set")).details[0].Unpack(info)
    archive: Any = status_of(ArchiveError("full"))

    assert dict(info.metadata) == {"setting": "COMETAPI_KEY"}
    assert archive.code == grpc.StatusCode.UNAVAILABLE.value[0]
