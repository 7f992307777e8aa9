from __future__ import annotations

import re
from collections import defaultdict

import grpc
import pytest

from kling_flows import errors
from kling_flows.archive import SourceExpired
from kling_flows.errors import ConfigurationError, InvalidRequest, KlingFlowsError, Violation
from kling_flows.upstream import errors as upstream_errors
from kling_flows.upstream.errors import UpstreamError


def _subclasses(kind: type[KlingFlowsError]) -> set[type[KlingFlowsError]]:
    found = set(kind.__subclasses__())
    return found.union(*(_subclasses(sub) for sub in found))


_MODULES = {errors.__name__, upstream_errors.__name__, SourceExpired.__module__}
TREE = sorted(
    (kind for kind in _subclasses(KlingFlowsError) if kind.__module__ in _MODULES), key=lambda kind: kind.__name__
)
#: The base of all that the provider can do to us is for catching.
RAISED = [kind for kind in TREE if kind is not UpstreamError]

#: Different things to do here, the same thing to a program that waits.
SHARED_REASONS = {
    "SERVER_UNAVAILABLE": {"ServerUnavailable", "RunnerDraining"},
    "UPSTREAM_AMBIGUOUS": {"VideoTaskUnresolved", "UpstreamAmbiguous"},
    "ARCHIVE_FAILED": {"ArchiveError", "SourceExpired"},
}


def test_the_tree_is_the_documented_one() -> None:
    documented = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    here = {kind.__name__ for kind in TREE if kind.__module__ == errors.__name__}
    assert here | {"UpstreamError"} == documented


def test_everything_the_provider_can_do_to_us_is_an_upstream_error() -> None:
    kinds = {kind for kind in TREE if kind.__module__ == upstream_errors.__name__}
    assert kinds - {UpstreamError} == _subclasses(UpstreamError)
    classes = [kind.error_class for kind in _subclasses(UpstreamError) if issubclass(kind, UpstreamError)]
    assert sorted(classes) == sorted(upstream_errors.ErrorClass)


@pytest.mark.parametrize("kind", RAISED, ids=lambda kind: kind.__name__)
def test_every_error_has_words_for_programs(kind: type[KlingFlowsError]) -> None:
    # google.rpc.ErrorInfo: at most 63 characters of UPPER_SNAKE_CASE.
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{1,61}[A-Z0-9]", kind.reason)
    assert kind.reason != KlingFlowsError.reason
    assert hasattr(grpc.StatusCode, kind.grpc_code)
    assert kind.grpc_code not in ("OK", "UNKNOWN", "INTERNAL")
    assert 1 <= kind.exit_code < 64
    assert kind.__doc__


def test_a_reason_names_one_thing() -> None:
    names: defaultdict[str, set[str]] = defaultdict(set)
    for kind in RAISED:
        names[kind.reason].add(kind.__name__)
    assert {reason: kinds for reason, kinds in names.items() if len(kinds) > 1} == SHARED_REASONS


def test_the_same_reason_has_the_same_status() -> None:
    statuses: defaultdict[str, set[str]] = defaultdict(set)
    for kind in RAISED:
        statuses[kind.reason].add(kind.grpc_code)
    assert [reason for reason, codes in statuses.items() if len(codes) > 1] == []


def test_a_message_is_for_people_and_metadata_for_programs() -> None:
    metadata = {"video_task": "t"}
    error = errors.VideoTaskNotFound("not there", metadata=metadata)
    assert (str(error), error.message, error.metadata) == ("not there", "not there", metadata)
    metadata["video_task"] = "changed"
    assert error.metadata == {"video_task": "t"}


def test_an_invalid_request_says_all_that_is_wrong() -> None:
    violations = [Violation("a.b", "TOO_LONG", "is too long"), Violation("c", "REQUIRED", "is needed")]
    error = InvalidRequest(violations)
    assert error.violations == tuple(violations)
    assert error.message == "a.b: is too long; c: is needed"
    with pytest.raises(ValueError, match="at least one"):
        InvalidRequest([])


def test_a_configuration_error_names_its_setting() -> None:
    error = ConfigurationError("KLING_FLOWS_LISTEN", "is taken")
    assert error.message == "KLING_FLOWS_LISTEN: is taken"
    assert error.metadata == {"setting": "KLING_FLOWS_LISTEN"}


@pytest.mark.parametrize("kind", sorted(_subclasses(UpstreamError), key=lambda kind: kind.__name__))
def test_an_upstream_error_carries_what_the_provider_said(kind: type[UpstreamError]) -> None:
    error = kind("x", http_status=429, provider_code=1303, request_id="r", retry_after=2.5)
    assert error.metadata == {"http_status": "429", "provider_code": "1303", "request_id": "r", "retry_after": "2.5"}
    assert kind("x").metadata == {}


def test_an_expired_source_is_an_archive_error() -> None:
    assert issubclass(SourceExpired, errors.ArchiveError)
