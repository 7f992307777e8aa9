"""A CreateVideoTaskRequest as a new video task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Self

from grpc_server.spec import read_spec
from kling_flows.engine.identity import MADE_PREFIX, ledger_task_id
from kling_flows.engine.intake import REQUEST_PATH, new_video_task, request_digest
from kling_flows.errors import CredentialsMissing, InvalidRequest, Violation
from kling_flows.ledger import LateVideo, VideoTask
from kling_flows.settings import Budget, Settings
from kling_flows.upstream import Dialect, Provider, TextToVideoRequest
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1.video_task_service_pb2 import CreateVideoTaskRequest

_TASK: Final = "video_task"
_SPEC: Final = f"{_TASK}.{REQUEST_PATH}"

#: Fields that stand beside the task in the request; all others stand in it.
_TOP_LEVEL: Final = frozenset({"video_task_id", "request_id"})


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms video tasks are taken in.

    Args:
        provider: Whose rules and prices apply.
        dialect: The provider's API generation.
        account: Which account will pay; empty if this front has no key.
        budgets: What may be spent.
    """

    provider: Provider
    dialect: Dialect = Dialect.LEGACY
    account: str = ""
    budgets: tuple[Budget, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The terms that the settings name; a front needs no key if they name the provider.

        Raises:
            ConfigurationError: no provider is configured, or what is set cannot be used.
        """
        try:
            account = settings.account()
        except CredentialsMissing:
            if settings.provider is None:
                raise
            return cls(settings.provider, settings.dialect, budgets=settings.budgets)
        return cls(account.provider, account.dialect, account.name, settings.budgets)


def read_create(request: CreateVideoTaskRequest, terms: Terms, tenant: str) -> tuple[VideoTask, str]:
    """The task that is asked for, and the fingerprint that tells a repetition from another body.

    Raises:
        InvalidRequest: with all violations, their paths as in the request.
    """
    wish, violations = _read_wish(request)
    labels = dict(request.video_task.labels)
    priority = request.video_task.priority
    deadline = _read_deadline(request.video_task, violations)
    on_deadline = _read_on_deadline(request.video_task, violations)
    chosen = request.video_task_id
    if chosen.startswith(MADE_PREFIX):
        violations.append(
            Violation(
                "video_task_id",
                "RESERVED",
                f"must not begin with {MADE_PREFIX}, as the ids do that the server makes; choose another one, or none",
            )
        )
    try:
        task = new_video_task(
            wish,
            terms.provider,
            tenant=tenant,
            task_id=chosen,
            request_id=request.request_id,
            labels=labels,
            account=terms.account,
            dialect=terms.dialect,
            priority=priority,
            deadline=deadline,
            on_deadline=on_deadline,
        )
    except InvalidRequest as error:
        violations.extend(
            Violation(v.field if v.field in _TOP_LEVEL else f"{_TASK}.{v.field}", v.rule, v.message)
            for v in error.violations
        )
    else:
        if not violations:
            digest = request_digest(wish, labels, chosen, priority=priority, deadline=deadline, on_deadline=on_deadline)
            return (task.model_copy(update={"id": ledger_task_id(tenant, chosen)}) if chosen else task), digest
    raise InvalidRequest(violations)


def _read_deadline(task: pb.VideoTask, violations: list[Violation]) -> datetime | None:
    if not task.HasField("deadline"):
        return None
    try:
        return task.deadline.ToDatetime(UTC)
    except (ValueError, OverflowError):
        violations.append(Violation(f"{_TASK}.deadline", "MALFORMED", "is no time between the years 1 and 9999"))
        return None


def _read_on_deadline(task: pb.VideoTask, violations: list[Violation]) -> LateVideo:
    match task.on_deadline:
        case pb.LATE_VIDEO_UNSPECIFIED | pb.KEEP_VIDEO:
            return LateVideo.KEEP_VIDEO
        case pb.DISCARD:
            return LateVideo.DISCARD
        case unknown:
            violations.append(
                Violation(f"{_TASK}.on_deadline", "UNKNOWN", f"{unknown} is no value of LateVideo that is known here")
            )
            return LateVideo.KEEP_VIDEO


def _read_wish(request: CreateVideoTaskRequest) -> tuple[TextToVideoRequest, list[Violation]]:
    spec = request.video_task.text_to_video
    if request.video_task.WhichOneof("spec") is None or not spec.ByteSize():
        # Some clients drop fields that they do not know without a word; what arrives is then empty.
        missing = Violation(
            _SPEC,
            "REQUIRED",
            "says nothing; fill in at least its prompt. If you did, your client has dropped a field: check the names "
            "against video_task.text_to_video.prompt",
        )
        return TextToVideoRequest(prompt="-"), [missing]
    wish, violations = read_spec(spec)
    return wish, [Violation(f"{_SPEC}.{v.field}", v.rule, v.message) for v in violations]
