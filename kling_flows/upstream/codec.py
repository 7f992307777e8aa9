"""What a dialect has to know, so that the client need not know which one it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from kling_flows.upstream.request import TextToVideoRequest
from kling_flows.upstream.task import UpstreamTask


@dataclass(frozen=True, slots=True)
class DialectFeatures:
    """How many tasks one query of an account can bring; 0: there is no such query.

    Args:
        batch_ids: Most ids of one `UpstreamClient.get_many`.
        list_page_size: Most tasks of one `UpstreamClient.list_page`. The standard dialect has `list_tasks` instead.
    """

    batch_ids: int
    list_page_size: int


@dataclass(frozen=True, slots=True)
class CursorPage:
    """One page of the standard dialect's list.

    Args:
        tasks: In the provider's order, which is not documented.
        next_cursor: Where the next page starts; empty if there is none.
        has_more: Whether there is a next page and a cursor that leads to it.
    """

    tasks: tuple[UpstreamTask, ...]
    next_cursor: str
    has_more: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A call in the dialect's own words: what goes behind the account's base URL, and the body, if it has one."""

    method: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict[str, str | int])
    body: Mapping[str, Any] | None = None


class Codec(Protocol):
    """What both dialects have; what only one of them has is asked of its module.

    Reading raises `UnreadableAnswer` where an answer does not hold what was asked for.
    """

    def ask_create(self, request: TextToVideoRequest, external_task_id: str) -> Ask:
        """Return the create; ``external_task_id`` is what a lost answer is looked up by.

        Raises:
            ValueError: ``external_task_id`` is empty.
        """
        ...

    def read_created(self, payload: Mapping[str, Any]) -> UpstreamTask:
        """Read the answer to a create."""
        ...

    def ask_one(self, wanted: str, *, external: bool) -> Ask:
        """Return the query for one task; ``external``: by our id.

        Raises:
            ValueError: ``wanted`` is no single id.
        """
        ...

    def read_one(self, payload: Mapping[str, Any], wanted: str, *, external: bool) -> UpstreamTask:
        """Read the answer to a query for one task.

        Raises:
            UpstreamNotFound: The answer says that there is none of that id.
        """
        ...
