"""The one place where an error becomes words on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import typer
from rich.text import Text

from kling_flows.cli.exit_codes import INTERRUPTED, exit_code_of
from kling_flows.cli.fields import option_of
from kling_flows.cli.options import Shared
from kling_flows.cli.output import Output, printable
from kling_flows.errors import InvalidRequest, KlingFlowsError, LedgerUnavailable, ServerUnavailable, Violation

if TYPE_CHECKING:
    from google.rpc.status_pb2 import Status
    from grpc.aio import AioRpcError

    from kling_flows.cli.status import StatusDetails

#: Statuses of the transport, without details of ours, that say that nobody is there who could answer.
_NOBODY: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})
#: In gRPC's words: nothing was sent.
_REFUSED: Final = "failed to connect"
_START_IT: Final = "Start it: kling-flows serve"


@dataclass(frozen=True, slots=True)
class Failure:
    """An error, ready to be shown.

    Args:
        code: Name of the gRPC status.
        reason: As in ``google.rpc.ErrorInfo``.
        message: For people.
        exit_code: Of the process.
        violations: Broken rules of the request.
        metadata: The variable parts of the message.
        remedy: What to do; empty if the message says it.
        where: Which of several requests it is about; empty if there is one.
    """

    code: str
    reason: str
    message: str
    exit_code: int
    violations: tuple[Violation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    remedy: str = ""
    where: str = ""


@contextmanager
def reported(shared: Shared) -> Generator[None]:
    """Report an error of the block and exit with its code; a bug of ours keeps its traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.BadParameter):
        raise
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        report(failure, Output(shared))
        raise typer.Exit(failure.exit_code) from None


def failure_of(error: Exception) -> Failure | None:
    """What is to be said of ``error``; None if it is not an expected one."""
    if isinstance(error, KlingFlowsError):
        return Failure(
            code=error.grpc_code,
            reason=error.reason,
            message=error.message,
            exit_code=error.exit_code,
            violations=error.violations if isinstance(error, InvalidRequest) else (),
            metadata=error.metadata,
        )
    from grpc.aio import AioRpcError

    return _of_rpc(error) if isinstance(error, AioRpcError) else None


def failure_of_status(status: Status, where: str) -> Failure:
    """What is to be said of one item of a batch; ``where`` it stands."""
    from grpc import StatusCode

    from kling_flows.cli.status import decode

    code = next((code.name for code in StatusCode if code.value[0] == status.code), StatusCode.UNKNOWN.name)
    return _told(code, f"{where}: {status.message}", decode(status), where)


def may_have_arrived(error: Exception) -> bool:
    """Whether a call that ended with ``error`` may have done its work all the same."""
    from grpc.aio import AioRpcError

    from kling_flows.cli.status import details_of

    if not isinstance(error, AioRpcError):
        return False
    reason = details_of(error).reason
    if reason:
        # These two can happen after the commit; every other reason is why there was none.
        return reason in (LedgerUnavailable.reason, KlingFlowsError.reason)
    return error.code().name in _NOBODY | {"INTERNAL", "UNKNOWN"} and _REFUSED not in (error.details() or "")


def report(failure: Failure, output: Output) -> None:
    """Print ``failure`` on stderr, as JSON where that is wanted."""
    if output.json:
        output.complain_document({"error": _document(failure)})
        return
    output.complain(_headline(failure))
    for violation in failure.violations:
        output.complain(_violation(violation))
    if failure.remedy:
        output.complain(Text(failure.remedy))


def _of_rpc(error: AioRpcError) -> Failure:
    from kling_flows.cli.status import details_of

    details = details_of(error)
    code = error.code().name
    message = error.details() or code
    if details.reason:
        return _told(code, message, details)
    if code in _NOBODY:
        return Failure(
            code=code,
            reason=ServerUnavailable.reason,
            message=f"the server cannot be reached: {message}",
            exit_code=ServerUnavailable.exit_code,
            remedy=_START_IT,
        )
    return Failure(
        code=code,
        reason=KlingFlowsError.reason,
        message=f"the server answered {code}, which is none of kling-flows' own errors: {message}",
        exit_code=KlingFlowsError.exit_code,
    )


def _told(code: str, message: str, details: StatusDetails, where: str = "") -> Failure:
    return Failure(
        code=code,
        reason=details.reason,
        message=message,
        exit_code=exit_code_of(details.reason),
        violations=details.violations,
        metadata=details.metadata,
        remedy=_remedy(details),
        where=where,
    )


def _remedy(details: StatusDetails) -> str:
    if details.retry_after is not None:
        return f"Try again in {max(details.retry_after, 1):.0f} s."
    # An error has room for so many violations only.
    total = details.metadata.get("violations", "")
    more = int(total) - len(details.violations) if total.isdecimal() else 0
    return f"  and {more} more" if more > 0 else ""


def _headline(failure: Failure) -> Text:
    # With violations the message only strings them together.
    invalid = f"{failure.where}: the request is invalid" if failure.where else "the request is invalid"
    message = invalid if failure.violations else printable(failure.message)
    return Text.assemble(("error: ", "bold red"), message)


def _violation(violation: Violation) -> Text:
    option = option_of(violation.field)
    where = violation.field if option is None else f"{option} ({violation.field})"
    return Text.assemble("  ", (printable(where), "bold"), ": ", printable(violation.message))


def _document(failure: Failure) -> dict[str, Any]:
    return {
        "code": failure.code,
        "reason": failure.reason,
        "message": failure.message,
        "violations": [
            {
                "field": violation.field,
                "rule": violation.rule,
                "message": violation.message,
                "option": option_of(violation.field),
            }
            for violation in failure.violations
        ],
        "metadata": dict(failure.metadata),
    }
