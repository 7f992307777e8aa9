"""BatchCreateVideoTasks: many creates in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from google.rpc.status_pb2 import Status

from grpc_server.admission import Admission
from grpc_server.convert import message_of
from grpc_server.errors import is_public, status_of
from kling_flows.errors import InvalidRequest, KlingFlowsError, QueueFull, Violation
from kling_flows.ledger import Creation, CreationRefused, Ledger, VideoTask
from kling_flows.settings import Budget
from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1.video_task_service_pb2 import (
    BatchCreateVideoTasksRequest,
    BatchCreateVideoTasksResponse,
    BatchCreateVideoTasksResult,
    CreateVideoTaskRequest,
)

MOST_REQUESTS: Final = 1_000

#: Bytes of all results; most clients refuse messages of more than 4 MiB.
RESPONSE_BYTES: Final = 3_000_000

#: Requests that are read, or results that are written, before others get their turn.
_TURN: Final = 25

_BARE_ERROR_CHARACTERS: Final = 200

Outcome = VideoTask | KlingFlowsError
Count = Callable[[int], None]
Read = Callable[[CreateVideoTaskRequest], tuple[VideoTask, str]]


async def create_batch(
    request: BatchCreateVideoTasksRequest,
    *,
    read: Read,
    count: Count,
    admission: Admission,
    ledger: Ledger,
    budgets: Sequence[Budget],
) -> BatchCreateVideoTasksResponse:
    """Create the tasks of a batch, all or each for itself.

    Args:
        request: The batch.
        read: Makes a new task, and a fingerprint of what it asks for, out of one request.
        count: Takes so many creates off what the caller may, or raises.
        admission: Says how many may wait.
        ledger: Takes the tasks.
        budgets: What may be spent.

    Raises:
        InvalidRequest: there are none, too many, or only some with ``validate_only``; with ``all_or_nothing`` also all
            violations of all requests.
        KlingFlowsError: with ``all_or_nothing``, why the first that could not be created was not; LedgerUnavailable.
    """
    requests = request.requests
    _check(request)
    validate_only = requests[0].validate_only
    outcomes, creations = await _read_all(requests, read, budgets)
    if request.all_or_nothing:
        _check_together(requests, outcomes, creations)
    if validate_only or not creations:
        return await _respond(outcomes)
    count(len(creations))
    if request.all_or_nothing:
        await admission.admit(len(creations))
        outcomes = await _create_all(list(creations.values()), ledger)
    else:
        refused = await _admit_each(creations, admission)
        admitted = {number: each for number, each in creations.items() if number not in refused}
        made = await ledger.create_each(list(admitted.values()))
        for number, outcome in (*refused.items(), *zip(admitted, made, strict=True)):
            outcomes[number] = outcome
    return await _respond(outcomes)


def _check(request: BatchCreateVideoTasksRequest) -> None:
    count = len(request.requests)
    if not 1 <= count <= MOST_REQUESTS:
        rule = "TOO_MANY" if count else "REQUIRED"
        raise InvalidRequest([Violation("requests", rule, f"1 to {MOST_REQUESTS} requests, {count} were given")])
    if len({each.validate_only for each in request.requests}) > 1:
        raise InvalidRequest([Violation("requests", "CONTRADICTION", "validate_only must be the same in all")])


async def _read_all(
    requests: Sequence[CreateVideoTaskRequest], read: Read, budgets: Sequence[Budget]
) -> tuple[list[Outcome], dict[int, Creation]]:
    """What each request asks for or why it cannot, and those that can be created, by their number."""
    outcomes: list[Outcome] = []
    creations: dict[int, Creation] = {}
    for number, each in enumerate(requests):
        if number % _TURN == 0:
            await asyncio.sleep(0)
        try:
            task, digest = read(each)
        except KlingFlowsError as error:
            outcomes.append(error)
        else:
            outcomes.append(task)
            creations[number] = Creation(task, each.request_id, digest, budgets)
    return outcomes, creations


def _check_together(
    requests: Sequence[CreateVideoTaskRequest], outcomes: Sequence[Outcome], creations: dict[int, Creation]
) -> None:
    violations: list[Violation] = []
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, InvalidRequest):
            violations.extend(_placed(number, violation) for violation in outcome.violations)
        elif isinstance(outcome, KlingFlowsError):
            raise _named(number, outcome)
    violations.extend(_collisions(requests, creations))
    if violations:
        raise InvalidRequest(violations)


def _collisions(requests: Sequence[CreateVideoTaskRequest], creations: dict[int, Creation]) -> list[Violation]:
    """Requests of which only one can be created; a repetition of another one is none."""
    violations: list[Violation] = []
    by_request_id: dict[str, int] = {}
    by_task_id: dict[str, int] = {}
    for number, creation in creations.items():
        request_id, task_id = requests[number].request_id, requests[number].video_task_id
        first = by_request_id.setdefault(request_id, number) if request_id else number
        if first != number:
            if creations[first].request_digest != creation.request_digest:
                message = f"is also that of requests[{first}], which asks for something else"
                violations.append(_placed(number, Violation("request_id", "CONTRADICTION", message)))
            continue
        first = by_task_id.setdefault(task_id, number) if task_id else number
        if first != number:
            message = f"is also that of requests[{first}]; each task needs an id of its own"
            violations.append(_placed(number, Violation("video_task_id", "CONTRADICTION", message)))
    return violations


async def _admit_each(numbers: Iterable[int], admission: Admission) -> dict[int, QueueFull]:
    """Take a place for each; answer those for which there was none."""
    refused: dict[int, QueueFull] = {}
    for number in numbers:
        try:
            await admission.admit()
        except QueueFull as error:
            refused[number] = error
    return refused


async def _create_all(creations: Sequence[Creation], ledger: Ledger) -> list[Outcome]:
    try:
        return list(await ledger.create_all(creations))
    except CreationRefused as refusal:
        raise _named(refusal.number, refusal.error) from None


def _placed(number: int, violation: Violation) -> Violation:
    return Violation(f"{_place(number)}.{violation.field}", violation.rule, violation.message)


def _named(number: int, error: KlingFlowsError) -> KlingFlowsError:
    error.message = f"{_place(number)}: {error.message}"
    error.metadata["field"] = _place(number)
    return error


def _place(number: int) -> str:
    return f"requests[{number}]"


async def _respond(outcomes: Sequence[Outcome]) -> BatchCreateVideoTasksResponse:
    """All results, with as much of each as fits in a message."""
    response = BatchCreateVideoTasksResponse()
    for result_of in (_full, _basic, _bare):
        response = BatchCreateVideoTasksResponse()
        size = 0
        for number, outcome in enumerate(outcomes):
            if number % _TURN == 0:
                await asyncio.sleep(0)
            result = result_of(outcome)
            size += result.ByteSize()
            if size > RESPONSE_BYTES and result_of is not _bare:
                break
            response.results.append(result)
        else:
            break
    return response


def _full(outcome: Outcome) -> BatchCreateVideoTasksResult:
    if isinstance(outcome, KlingFlowsError):
        return BatchCreateVideoTasksResult(error=_status(outcome))
    return BatchCreateVideoTasksResult(video_task=message_of(outcome, full=True))


def _basic(outcome: Outcome) -> BatchCreateVideoTasksResult:
    if isinstance(outcome, KlingFlowsError):
        return BatchCreateVideoTasksResult(error=_status(outcome))
    return BatchCreateVideoTasksResult(video_task=message_of(outcome, full=False))


def _bare(outcome: Outcome) -> BatchCreateVideoTasksResult:
    if isinstance(outcome, KlingFlowsError):
        status = _status(outcome)
        # The first detail is the ErrorInfo, which every error has.
        del status.details[1:]
        status.message = status.message[:_BARE_ERROR_CHARACTERS]
        return BatchCreateVideoTasksResult(error=status)
    whole = message_of(outcome, full=False)
    task = pb.VideoTask(
        name=whole.name,
        state=whole.state,
        revision=whole.revision,
        create_time=whole.create_time,
        update_time=whole.update_time,
    )
    return BatchCreateVideoTasksResult(video_task=task)


def _status(error: KlingFlowsError) -> Status:
    if not is_public(error):
        # A bug of ours: it ends the call like any other.
        raise error
    return status_of(error)
