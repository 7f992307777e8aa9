"""Every error that kling-flows raises, in one tree.

    KlingFlowsError
    ├── InvalidRequest            a request breaks a rule; carries one Violation per broken rule
    ├── ConfigurationError        a setting is missing, malformed or unusable here
    │   └── CredentialsMissing    no key for the provider that was named
    ├── VideoTaskNotFound
    ├── VideoTaskExists
    ├── RequestIdReused
    ├── VideoTaskFinal            the state does not allow what was asked
    ├── VideoTaskNotUnresolved    there is nothing for a person to decide
    ├── ResumeTokenInvalid        not one of ours
    ├── ResumeTokenExpired        older than what the ledger keeps
    ├── QueueFull
    ├── BudgetExceeded            the tenant's or the account's budget does not cover it
    ├── RateLimited               the tenant's calls, not the provider's
    ├── CredentialsRejected       the caller of the facade is not known
    ├── PermissionMissing         the caller of the facade lacks a scope
    ├── ServerUnavailable         not reachable, starting, or draining
    ├── LedgerUnavailable
    ├── LeaseLost                 another runner holds the task now: write nothing
    ├── RunnerDraining            this runner stops; the task goes on with the next one
    ├── VideoTaskUnresolved       a person has to decide
    ├── ArchiveError              the object storage refused, or the bytes are not the video
    ├── AddressRefused            a URL leads where requests must not go
    ├── VideoTaskFailed           the task ended without a video
    │   ├── VideoTaskCancelled
    │   ├── VideoTaskExpired
    │   └── VideoTaskLost         made and billed, and deleted by the provider before it could be archived
    ├── VideoNotArchived
    ├── CallbackDeliveryNotFound
    └── UpstreamError             the provider; see kling_flows.upstream.errors

Each class maps to one reason (``google.rpc.ErrorInfo.reason``), one gRPC status and one CLI exit code; the table in
``docs/errors.md`` is this tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

#: ``google.rpc.ErrorInfo.domain`` of every error of ours.
ERROR_DOMAIN = "kling-flows"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule.

    Args:
        field: Path of the field as the caller wrote it, for example ``text_to_video.multi_shot.shots[2].prompt``.
        rule: Stable upper-case name of the rule, for example ``TOO_LONG``.
        message: What is wrong and what to do, in one or two sentences.
    """

    field: str
    rule: str
    message: str


class KlingFlowsError(Exception):
    """Base of all. ``message`` is for people; ``metadata`` repeats its variable parts for programs."""

    reason: ClassVar[str] = "INTERNAL"
    grpc_code: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})


class InvalidRequest(KlingFlowsError):
    """A request breaks one or more rules; nothing was sent and nothing was stored."""

    reason = "INVALID_REQUEST"
    grpc_code = "INVALID_ARGUMENT"
    exit_code = 3

    def __init__(self, violations: Sequence[Violation]) -> None:
        if not violations:
            raise ValueError("InvalidRequest needs at least one violation")
        super().__init__("; ".join(f"{v.field}: {v.message}" for v in violations))
        self.violations = tuple(violations)


class ConfigurationError(KlingFlowsError):
    """A setting is missing, malformed, or cannot work on this machine."""

    reason = "CONFIGURATION_INVALID"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 4

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}", metadata={"setting": setting})
        self.setting = setting


class CredentialsMissing(ConfigurationError):
    """No key is set for the provider."""

    reason = "CREDENTIALS_MISSING"


class VideoTaskNotFound(KlingFlowsError):
    """No video task of that name is visible to the caller."""

    reason = "VIDEO_TASK_NOT_FOUND"
    grpc_code = "NOT_FOUND"
    exit_code = 5


class VideoTaskExists(KlingFlowsError):
    """A video task of that id exists."""

    reason = "VIDEO_TASK_EXISTS"
    grpc_code = "ALREADY_EXISTS"
    exit_code = 6


class RequestIdReused(KlingFlowsError):
    """The same ``request_id`` came with another body."""

    reason = "REQUEST_ID_REUSED"
    grpc_code = "ALREADY_EXISTS"
    exit_code = 6


class VideoTaskFinal(KlingFlowsError):
    """The video task is in a final state, which never changes."""

    reason = "VIDEO_TASK_FINAL"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 7


class VideoTaskNotUnresolved(KlingFlowsError):
    """The video task is not UNRESOLVED: there is nothing for a person to decide."""

    reason = "VIDEO_TASK_NOT_UNRESOLVED"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 7


class ResumeTokenInvalid(KlingFlowsError):
    """The token was not made by this ledger, or for another call."""

    reason = "TOKEN_INVALID"
    grpc_code = "INVALID_ARGUMENT"
    exit_code = 3


class ResumeTokenExpired(KlingFlowsError):
    """The token points before the oldest event that the ledger keeps; watch again without it."""

    reason = "RESUME_TOKEN_EXPIRED"
    grpc_code = "OUT_OF_RANGE"
    exit_code = 7


class QueueFull(KlingFlowsError):
    """Too many video tasks wait; try again later."""

    reason = "QUEUE_FULL"
    grpc_code = "RESOURCE_EXHAUSTED"
    exit_code = 8


class BudgetExceeded(KlingFlowsError):
    """A budget does not cover the video task; nothing was sent and nothing was stored.

    Args:
        message: Which budget, what is left of it, and what to do.
        subject: The budget, for ``google.rpc.QuotaFailure``, for example ``tenant:ads/account:*/month``.
    """

    reason = "BUDGET_EXCEEDED"
    grpc_code = "RESOURCE_EXHAUSTED"
    exit_code = 10

    def __init__(self, message: str, *, subject: str, metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message, metadata={"subject": subject, **(metadata or {})})
        self.subject = subject


class ServerUnavailable(KlingFlowsError):
    """The server cannot be reached, or is draining."""

    reason = "SERVER_UNAVAILABLE"
    grpc_code = "UNAVAILABLE"
    exit_code = 8


class LedgerUnavailable(KlingFlowsError):
    """The ledger cannot be read or written at the moment."""

    reason = "LEDGER_UNAVAILABLE"
    grpc_code = "UNAVAILABLE"
    exit_code = 8


class RateLimited(KlingFlowsError):
    """The tenant calls more often, or has more calls open, than it may; try again later.

    Args:
        message: Which limit, and what to do.
        subject: The limit, for ``google.rpc.QuotaFailure``, for example ``tenant:ads/creates-per-second``.
        retry_after: Seconds after which the same call may pass.
    """

    reason = "RATE_LIMITED"
    grpc_code = "RESOURCE_EXHAUSTED"
    exit_code = 8

    def __init__(self, message: str, *, subject: str, retry_after: float) -> None:
        super().__init__(message, metadata={"subject": subject})
        self.subject = subject
        self.retry_after = retry_after


class CredentialsRejected(KlingFlowsError):
    """The caller has no credentials, or none that this server knows."""

    reason = "CREDENTIALS_REJECTED"
    grpc_code = "UNAUTHENTICATED"
    exit_code = 9


class PermissionMissing(KlingFlowsError):
    """The caller is known and may not do this."""

    reason = "PERMISSION_MISSING"
    grpc_code = "PERMISSION_DENIED"
    exit_code = 9


class LeaseLost(KlingFlowsError):
    """Another runner holds this video task now; whoever gets this error writes nothing."""

    reason = "LEASE_LOST"
    grpc_code = "ABORTED"
    exit_code = 1


class RunnerDraining(KlingFlowsError):
    """This runner stops; the video task is safe in the ledger and goes on with the next one."""

    reason = "SERVER_UNAVAILABLE"
    grpc_code = "UNAVAILABLE"
    exit_code = 8


class VideoTaskUnresolved(KlingFlowsError):
    """It is unknown whether the provider has accepted the task and it cannot be asked; a person decides."""

    reason = "UPSTREAM_AMBIGUOUS"
    grpc_code = "UNAVAILABLE"
    exit_code = 13


class ArchiveError(KlingFlowsError):
    """The video could not be stored; it is still at the provider and the step can be repeated."""

    reason = "ARCHIVE_FAILED"
    grpc_code = "UNAVAILABLE"
    exit_code = 8


class AddressRefused(KlingFlowsError):
    """A URL that came from outside leads where no request of ours may go; names the host and never the query."""

    reason = "ADDRESS_REFUSED"
    grpc_code = "INVALID_ARGUMENT"
    exit_code = 3


class VideoTaskFailed(KlingFlowsError):
    """The video task ended without a video."""

    reason = "VIDEO_TASK_FAILED"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 10


class VideoTaskCancelled(VideoTaskFailed):
    """The video task was cancelled."""

    reason = "VIDEO_TASK_CANCELLED"
    grpc_code = "CANCELLED"
    exit_code = 11


class VideoTaskExpired(VideoTaskFailed):
    """The video task's own deadline passed."""

    reason = "VIDEO_TASK_EXPIRED"
    grpc_code = "DEADLINE_EXCEEDED"
    exit_code = 12


class VideoTaskLost(VideoTaskFailed):
    """The provider made and billed the video, and deleted it before it could be archived."""

    reason = "VIDEO_TASK_LOST"
    grpc_code = "DATA_LOSS"
    exit_code = 14


class VideoNotArchived(KlingFlowsError):
    """The video task has no such file in the archive, or not yet."""

    reason = "VIDEO_NOT_ARCHIVED"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 7


class CallbackDeliveryNotFound(KlingFlowsError):
    """No callback delivery of that name is visible to the caller."""

    reason = "CALLBACK_DELIVERY_NOT_FOUND"
    grpc_code = "NOT_FOUND"
    exit_code = 5
