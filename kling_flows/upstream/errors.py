"""Errors of the provider, one class per way in which a caller has to react.

A class says what to do next, never how the failure looked on the wire: the same HTTP status stands for permanent and
for passing failures (fact sheet 7.1).
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from kling_flows.errors import KlingFlowsError


class ErrorClass(StrEnum):
    """How a caller has to react."""

    INVALID = "invalid"
    AUTH = "auth"
    BILLING = "billing"
    PERMISSION = "permission"
    POLICY = "policy"
    THROTTLED = "throttled"
    CONCURRENCY = "concurrency"
    UNAVAILABLE = "unavailable"
    AMBIGUOUS = "ambiguous"
    NOT_FOUND = "not-found"
    ALREADY_EXISTS = "already-exists"


_RETRYABLE = frozenset({ErrorClass.THROTTLED, ErrorClass.CONCURRENCY, ErrorClass.UNAVAILABLE})


class UpstreamError(KlingFlowsError):
    """A call to the provider did not do what was asked.

    Only the subclasses are raised.

    Args:
        message: What happened and what to do; holds no credentials and at most a short excerpt of the answer.
        http_status: HTTP status of the answer; ``None`` if there was no answer.
        provider_code: ``code`` of the answer: Kling's number, or a relay's word.
        request_id: The provider's id of the request, for its support.
        retry_after: Seconds to wait before the next try, if the provider asked for it.
    """

    error_class: ClassVar[ErrorClass]
    #: Seconds before the first repetition where the provider asked for none; ``None``: do not simply repeat.
    default_backoff: ClassVar[float | None] = None
    #: What has run out (``google.rpc.QuotaFailure``); ``None`` if it is no matter of a quota.
    quota_subject: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        http_status: int | None = None,
        provider_code: int | str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        facts = {
            "http_status": http_status,
            "provider_code": provider_code,
            "request_id": request_id,
            "retry_after": retry_after,
        }
        super().__init__(message, metadata={name: str(value) for name, value in facts.items() if value is not None})
        self.http_status = http_status
        self.provider_code = provider_code
        self.request_id = request_id
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Whether the same call may simply be made again later. An ambiguous one must be looked up first."""
        return self.error_class in _RETRYABLE

    @property
    def retry_delay(self) -> float | None:
        """Seconds to wait before the same call is made again (``google.rpc.RetryInfo``); ``None`` if it must not be.

        What the provider asked for, otherwise the start of a back-off that the caller lengthens with each try.
        """
        if not self.retryable:
            return None
        return self.default_backoff if self.retry_after is None else self.retry_after


class UpstreamInvalid(UpstreamError):
    """The request itself is wrong; the same request will be refused again."""

    error_class = ErrorClass.INVALID
    reason = "UPSTREAM_INVALID"
    grpc_code = "INVALID_ARGUMENT"
    exit_code = 3


class UpstreamAuth(UpstreamError):
    """The provider does not accept our credentials; no caller can repair that, only whoever runs the service."""

    error_class = ErrorClass.AUTH
    reason = "UPSTREAM_AUTH"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 9


class UpstreamBilling(UpstreamError):
    """The account has no units or is in arrears; nothing will be made until somebody pays."""

    error_class = ErrorClass.BILLING
    reason = "UPSTREAM_BILLING"
    grpc_code = "RESOURCE_EXHAUSTED"
    exit_code = 10
    quota_subject = "account:units"


class UpstreamPermission(UpstreamError):
    """The account may not use this model, this interface, or this address."""

    error_class = ErrorClass.PERMISSION
    reason = "UPSTREAM_PERMISSION"
    grpc_code = "PERMISSION_DENIED"
    exit_code = 9


class UpstreamPolicy(UpstreamError):
    """The content was refused; only other content will pass."""

    error_class = ErrorClass.POLICY
    reason = "UPSTREAM_POLICY"
    grpc_code = "FAILED_PRECONDITION"
    exit_code = 10


class UpstreamThrottled(UpstreamError):
    """Too many requests in a short time; nothing was created and nothing was charged."""

    error_class = ErrorClass.THROTTLED
    reason = "UPSTREAM_THROTTLED"
    grpc_code = "UNAVAILABLE"
    exit_code = 8
    # Nothing is documented; a burst of one account is over in seconds.
    default_backoff = 5.0


class UpstreamConcurrency(UpstreamError):
    """The account has no free slot; nothing was created and nothing was charged."""

    error_class = ErrorClass.CONCURRENCY
    reason = "UPSTREAM_CONCURRENCY"
    grpc_code = "UNAVAILABLE"
    exit_code = 8
    # Kling asks for at least 1 s, and a slot comes free when a video ends, which takes minutes (fact sheet 5, 7.2).
    default_backoff = 15.0
    quota_subject = "account:concurrent-tasks"


class UpstreamUnavailable(UpstreamError):
    """The provider could not be reached, or could not answer a read; nothing was created."""

    error_class = ErrorClass.UNAVAILABLE
    reason = "UPSTREAM_UNAVAILABLE"
    grpc_code = "UNAVAILABLE"
    exit_code = 8
    default_backoff = 5.0


class UpstreamAmbiguous(UpstreamError):
    """A create was sent and its outcome is unknown: look it up by ``external_task_id`` before sending it again."""

    error_class = ErrorClass.AMBIGUOUS
    reason = "UPSTREAM_AMBIGUOUS"
    grpc_code = "UNAVAILABLE"
    exit_code = 13


class UpstreamNotFound(UpstreamError):
    """The provider says that it has no task of that id."""

    error_class = ErrorClass.NOT_FOUND
    reason = "UPSTREAM_NOT_FOUND"
    grpc_code = "NOT_FOUND"
    exit_code = 5


class UpstreamAlreadyExists(UpstreamError):
    """A task with that ``external_task_id`` exists: an earlier create did arrive, and is to be adopted."""

    error_class = ErrorClass.ALREADY_EXISTS
    reason = "UPSTREAM_ALREADY_EXISTS"
    grpc_code = "ALREADY_EXISTS"
    exit_code = 6
