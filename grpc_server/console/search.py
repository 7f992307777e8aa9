"""Tasks by the words of their prompt.

The ledger has no index of words. A search goes through the tasks that the other conditions leave, the newest first, a
bounded number for each request; its page token goes on where it stopped, whether it has found enough or not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kling_flows.v1 import video_task_pb2 as pb
from kling_flows.v1 import video_task_service_pb2 as rpc

#: Tasks that one request looks at.
MOST_SCANNED: Final = 2_000

_PAGE: Final = 250


def mentions(task: pb.VideoTask, text: str) -> bool:
    """Whether the prompt or the name of a task holds ``text``, whatever the case; empty text is everywhere."""
    words = text.casefold()
    return words in task.text_to_video.prompt.casefold() or words in task.name.casefold()


async def search(
    request: rpc.ListVideoTasksRequest,
    text: str,
    list_page: Callable[[rpc.ListVideoTasksRequest], Awaitable[rpc.ListVideoTasksResponse]],
) -> rpc.ListVideoTasksResponse:
    """A page of those tasks that mention ``text``; it can be empty and not the last one.

    Args:
        request: What else is asked for; its page size is when to stop.
        text: What to look for.
        list_page: Lists tasks.
    """
    found = rpc.ListVideoTasksResponse()
    asked = rpc.ListVideoTasksRequest()
    asked.CopyFrom(request)
    asked.page_size = _PAGE
    for _ in range(MOST_SCANNED // _PAGE):
        page = await list_page(asked)
        found.resume_token = found.resume_token or page.resume_token
        found.next_page_token = asked.page_token = page.next_page_token
        found.video_tasks.extend(task for task in page.video_tasks if mentions(task, text))
        if not page.next_page_token or len(found.video_tasks) >= request.page_size:
            break
    return found
