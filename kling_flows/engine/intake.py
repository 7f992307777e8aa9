"""How a wish becomes a video task: checked against the capability map, then one durable record."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from kling_flows.engine.identity import check_task_id, new_task_id
from kling_flows.errors import InvalidRequest, Violation
from kling_flows.ledger import State, VideoTask
from kling_flows.upstream import Provider, TextToVideoRequest, validate

LABEL_LIMIT: Final = 32
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_LABEL_VALUE_LENGTH: Final = 255
_REQUEST_ID: Final = re.compile(r"[!-~]{1,64}")

#: Where the request stands in a CreateVideoTaskRequest, for the paths of violations.
REQUEST_PATH: Final = "text_to_video"


def new_video_task(
    request: TextToVideoRequest,
    provider: Provider,
    *,
    tenant: str,
    task_id: str = "",
    request_id: str = "",
    labels: Mapping[str, str] | None = None,
) -> VideoTask:
    """A QUEUED task that breaks no rule; it is not stored yet.

    Raises:
        InvalidRequest: with all violations.
    """
    labels = labels or {}
    violations = [
        Violation(f"{REQUEST_PATH}.{violation.field}", violation.rule, violation.message)
        for violation in validate(request, provider)
    ]
    violations.extend(_check_labels(labels))
    if task_id and (violation := check_task_id(task_id, "video_task_id")):
        violations.append(violation)
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        violations.append(Violation("request_id", "MALFORMED", "must be 1 to 64 printable ASCII characters"))
    if violations:
        raise InvalidRequest(violations)
    now = datetime.now(UTC)
    return VideoTask(
        id=task_id or new_task_id(),
        tenant=tenant,
        state=State.QUEUED,
        revision=1,
        request=request,
        labels=dict(labels),
        create_time=now,
        update_time=now,
    )


def request_digest(request: TextToVideoRequest, labels: Mapping[str, str], task_id: str) -> str:
    """A fingerprint of what a create asks for, to tell a repetition from another body."""
    digest = hashlib.sha256(request.model_dump_json().encode())
    for key in sorted(labels):
        digest.update(f"\0{key}\0{labels[key]}".encode())
    digest.update(f"\1{task_id}".encode())
    return digest.hexdigest()


def _check_labels(labels: Mapping[str, str]) -> list[Violation]:
    violations: list[Violation] = []
    if len(labels) > LABEL_LIMIT:
        violations.append(Violation("labels", "TOO_MANY", f"at most {LABEL_LIMIT} labels, {len(labels)} were given"))
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            violations.append(Violation("labels", "MALFORMED", f"the key {key[:64]!r} must match {_LABEL_KEY.pattern}"))
        if len(value) > _LABEL_VALUE_LENGTH:
            violations.append(
                Violation(f"labels[{key[:64]!r}]", "TOO_LONG", f"at most {_LABEL_VALUE_LENGTH} characters")
            )
    return violations
