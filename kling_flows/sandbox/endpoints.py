"""What the text-to-video endpoints of both dialects do alike: take an order, look at a task, go wrong."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from starlette.requests import Request
from starlette.responses import Response

from kling_flows.sandbox.answers import success
from kling_flows.sandbox.errors import Refusal
from kling_flows.sandbox.faults import Acceptance, Operation, Rule
from kling_flows.sandbox.misbehaviour import Answer, GatewayError, misbehave
from kling_flows.sandbox.service import SandboxService
from kling_flows.sandbox.surfaces import refusal_response
from kling_flows.sandbox.tasks import Task
from kling_flows.sandbox.text2video import Text2Video
from kling_flows.sandbox.view import TaskView


class Endpoints(ABC):
    """The common half of them.

    Args:
        service: The sandbox's state.
        gateway_error: Makes an error of the surface itself.
    """

    def __init__(self, service: SandboxService, gateway_error: GatewayError) -> None:
        self._service = service
        self._gateway_error = gateway_error

    @abstractmethod
    def describe_created(self, task: Task) -> dict[str, object]:
        """``data`` of a create."""

    async def _take(self, account: str, order: Text2Video, request: Request) -> Response:
        """Answer the create of a valid order."""
        base = _base(request)
        rule = self._service.faults.for_call(Operation.CREATE, order.searchable)
        if rule is None:
            return await self._accept(account, order, base)
        return await misbehave(rule, await self._accept_under(rule, account, order, base), self._gateway_error)

    async def _under_faults(self, operation: Operation, text: str, answer: Answer) -> Response:
        """The answer, or what the faults make of it; ``text`` is what their ``match`` looks at."""
        rule = self._service.faults.for_call(operation, text)
        return await answer() if rule is None else await misbehave(rule, answer, self._gateway_error)

    def _view(self, task: Task, request: Request, operation: Operation) -> TaskView:
        return self._service.viewer.queried(task, self._service.now(), _base(request), operation)

    async def _accept(self, account: str, order: Text2Video, base: str) -> Response:
        try:
            task = self._service.accept(account, order, base)
        except Refusal as refusal:
            return refusal_response(refusal)
        answer = success(self.describe_created(task))
        await self._service.callbacks.early(task)
        return answer

    async def _accept_under(self, rule: Rule, account: str, order: Text2Video, base: str) -> Answer:
        """Accept the order now, later or never, as the rule says, and give what makes the true answer."""
        if rule.accept is Acceptance.LATE:
            late = self._service.later(rule.delay, lambda: self._accept(account, order, base))

            async def await_late() -> Response:
                # The order goes on if the call is cancelled meanwhile.
                return await asyncio.shield(late)

            return await_late
        if rule.accept is Acceptance.YES:
            accepted = await self._accept(account, order, base)

            async def give() -> Response:
                return accepted

            return give

        async def refuse() -> Response:
            return self._gateway_error(500, None)

        return refuse


def _base(request: Request) -> str:
    """Scheme and host that the caller knows the sandbox by."""
    return f"{request.scope['scheme']}://{request.headers['host']}"
