"""The two faces of the one API: Kling's own, and CometAPI's below its prefix."""

from __future__ import annotations

from typing import Final, Protocol

from starlette.responses import Response

from kling_flows.sandbox.answers import cometapi_error, kling_error, task_info
from kling_flows.sandbox.auth import CometApiAuth, OfficialAuth
from kling_flows.sandbox.errors import TEXT_OF_CODE, Refusal
from kling_flows.sandbox.tasks import Task
from kling_flows.upstream.constants import KlingCode, StatusWord

#: What CometAPI puts before Kling's paths (fact sheet 1.1).
COMETAPI_PREFIX: Final = "/kling"

#: The code that goes with a status where only the status was asked for; any other is an internal error.
_CODE_OF_GATEWAY: Final = {429: KlingCode.TOO_FAST, 503: KlingCode.MAINTENANCE, 504: KlingCode.BACKLOG}


class Unauthorized(Exception):
    """The credentials were refused; ``response`` says so in the surface's words."""

    def __init__(self, response: Response) -> None:
        super().__init__("unauthorized")
        self.response = response


class Surface(Protocol):
    """What differs between the two."""

    def account(self, authorization: str | None) -> str:
        """The caller's account.

        Raises:
            Unauthorized: The credentials were refused.
        """
        ...

    def created(self, task: Task) -> dict[str, object]:
        """``data`` of a create."""
        ...

    def queried(self, answer: dict[str, object]) -> dict[str, object]:
        """``data`` of a query, made from Kling's own."""
        ...

    def no_route(self, method: str, path: str, *, wrong_method: bool) -> Response:
        """There is no such endpoint."""
        ...

    def gateway_error(
        self, status: int, headers: dict[str, str] | None, message: str | None = None, code: str = ""
    ) -> Response:
        """The surface itself fails, without a code of Kling's; ``code`` is that of CometAPI's envelope."""
        ...


class OfficialSurface:
    """Kling's own API, both dialects of it."""

    def __init__(self) -> None:
        self._auth = OfficialAuth()

    def account(self, authorization: str | None, *, key_only: bool = False) -> str:
        """See :class:`Surface`; with ``key_only`` a JWT is refused, as by the standard dialect (fact sheet 1.3)."""
        try:
            return self._auth.account(authorization, key_only=key_only)
        except Refusal as refusal:
            raise Unauthorized(refusal_response(refusal)) from refusal

    def created(self, task: Task) -> dict[str, object]:
        """See :class:`Surface`."""
        return {
            "task_id": task.task_id,
            "task_status": StatusWord.SUBMITTED.value,
            "task_info": task_info(task),
            "created_at": task.created_ms,
            "updated_at": task.created_ms,
        }

    def queried(self, answer: dict[str, object]) -> dict[str, object]:
        """See :class:`Surface`."""
        return answer

    def no_route(self, method: str, path: str, *, wrong_method: bool) -> Response:
        """See :class:`Surface`; 404 with 1202 or 1203 (fact sheet 7.1)."""
        return refusal_response(Refusal(KlingCode.METHOD_INVALID if wrong_method else KlingCode.RESOURCE_MISSING))

    def gateway_error(
        self, status: int, headers: dict[str, str] | None, message: str | None = None, code: str = ""
    ) -> Response:
        """See :class:`Surface`."""
        kling_code = _CODE_OF_GATEWAY.get(status, KlingCode.INTERNAL_ERROR)
        return kling_error(kling_code, message or TEXT_OF_CODE[kling_code], status, headers)


class CometApiSurface:
    """CometAPI's mirror of it (fact sheet 1.5, 2.4, 4.5, 7.4)."""

    def __init__(self) -> None:
        self._auth = CometApiAuth()

    def account(self, authorization: str | None) -> str:
        """See :class:`Surface`."""
        account = self._auth.account(authorization)
        if account is None:
            raise Unauthorized(cometapi_error("invalid token", 401))
        return account

    def created(self, task: Task) -> dict[str, object]:
        """See :class:`Surface`; CometAPI's schema has no ``task_info`` here."""
        return {
            "task_id": task.task_id,
            "task_status": StatusWord.SUBMITTED.value,
            "created_at": task.created_ms,
            "updated_at": task.created_ms,
        }

    def queried(self, answer: dict[str, object]) -> dict[str, object]:
        """See :class:`Surface`; there is no ``task_status_msg`` while the task runs."""
        if answer["task_status"] in (StatusWord.SUBMITTED, StatusWord.PROCESSING):
            del answer["task_status_msg"]
        return answer

    def no_route(self, method: str, path: str, *, wrong_method: bool) -> Response:
        """See :class:`Surface`."""
        return cometapi_error(f"Invalid URL ({method} {path})", 404)

    def gateway_error(
        self, status: int, headers: dict[str, str] | None, message: str | None = None, code: str = ""
    ) -> Response:
        """See :class:`Surface`."""
        return cometapi_error(message or "upstream error", status, headers, code)


def refusal_response(refusal: Refusal) -> Response:
    """A refusal in Kling's envelope.

    Both surfaces use it: how Kling's codes look through CometAPI is not published (fact sheet 7.4), and its answers are
    otherwise Kling's own.
    """
    return kling_error(refusal.code, refusal.message, refusal.status)
