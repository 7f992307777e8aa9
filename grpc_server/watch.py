"""One WatchVideoTasks stream: a cursor over the ledger's log.

The snapshot shows the tasks as they were at one position of the log, and everything after that position is replayed. A
task that has changed since is left out of the snapshot, because the replay shows it. So nothing is missed and nothing
comes twice, without remembering what was sent, and a stream that breaks in the middle of its snapshot can go on there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from grpc_server.hub import Entry, Hub, Subscription, encode_task, expired
from grpc_server.names import name_of
from grpc_server.tokens import WHOLE_SNAPSHOT, ResumePoint, Tokens, invalid_resume_token
from grpc_server.watch_plan import WatchPlan
from kling_flows.errors import ServerUnavailable, VideoTaskNotFound
from kling_flows.ledger import Ledger, TaskPlace, VideoTask, place_of
from kling_flows.v1.video_task_service_pb2 import WatchVideoTasksResponse

#: Most tasks in one message, and most events that one read takes from the ledger.
BATCH_SIZE: Final = 100

#: Bytes of tasks in one message; most clients refuse messages of more than 4 MiB.
MESSAGE_BYTES: Final = 1_000_000

Write = Callable[[bytes], Awaitable[None]]


class Watch:
    """Delivers what ``plan`` asks for through ``write``, which takes a serialised WatchVideoTasksResponse.

    ``write`` may take as long as it likes: meanwhile the stream is a position in the log and costs nothing else.

    Args:
        since: Shows what has happened since this position event by event, instead of as it is by now; for a plan
            without a resume token.
    """

    def __init__(
        self,
        plan: WatchPlan,
        *,
        hub: Hub,
        ledger: Ledger,
        tokens: Tokens,
        tenant: str,
        write: Write,
        since: int | None = None,
    ) -> None:
        self._plan = plan
        self._task_ids = frozenset(plan.task_ids)
        self._hub = hub
        self._ledger = ledger
        self._tokens = tokens
        self._tenant = tenant
        self._write = write
        # Everything before it was delivered; None until that is known.
        self._point = None if since is None else ResumePoint(since, WHOLE_SNAPSHOT)
        self._sent_at = time.monotonic()
        self._not_final: set[str] = set()

    async def run(self) -> None:
        """Deliver until the caller has what it asked for, which only ``until_final`` lets happen.

        Raises:
            VideoTaskNotFound: a watched name does not exist.
            ResumeTokenInvalid: the token is not one of this ledger, or of another watch's snapshot.
            ResumeTokenExpired: the token is older than what the ledger keeps.
            ServerUnavailable: the server drains; ``resume_token`` in its metadata is where to go on.
            LedgerUnavailable: the ledger cannot be read.
        """
        with self._hub.subscribe(self._tenant, self._task_ids) as subscription:
            self._check_draining()
            self._point = point = await self._begin()
            await self._look_up_names()
            target = await self._snapshot(point)
            await self._hub.reach(target)
            await self._follow(subscription, point.position, target)

    async def _begin(self) -> ResumePoint:
        if self._point is not None:
            return self._point
        head = await self._ledger.head()
        if not self._plan.resume_token:
            return ResumePoint(head, WHOLE_SNAPSHOT)
        point = self._tokens.open_resume(self._plan.resume_token, self._plan.watched)
        if point.position > head:
            # The ledger was replaced by an older copy of itself.
            raise invalid_resume_token()
        if point.position + 1 < await self._ledger.oldest():
            raise expired()
        return point

    async def _look_up_names(self) -> None:
        if not self._task_ids:
            return
        tasks = await self._ledger.get_many(self._plan.task_ids, tenant=self._tenant)
        missing = sorted(self._task_ids.difference(task.id for task in tasks))
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise VideoTaskNotFound(
                f"{name_of(missing[0])}{others} does not exist; ListVideoTasks shows those that do",
                metadata={"video_task": missing[0], "missing": str(len(missing))},
            )
        # Those that are final by now come in the snapshot or in the replay, or came before the resume token.
        self._not_final = {task.id for task in tasks if not task.state.final}

    async def _snapshot(self, point: ResumePoint) -> int:
        """Send what is left of the snapshot; answer the position up to which the replay is to go before ``synced``."""
        beyond = point.beyond
        scanned = point.position
        changed: set[str] = set()
        while beyond is not None:
            self._check_draining()
            rows = await self._read_tasks(beyond)
            head = await self._ledger.head()
            while scanned < head:
                await self._hub.reach(head)
                self._check_draining()
                entries, scanned = await self._hub.read(self._tenant, scanned, BATCH_SIZE)
                changed.update(entry.task.id for entry in entries)
            beyond = place_of(*rows[-1]) if len(rows) == BATCH_SIZE else None
            parts = [
                (ResumePoint(point.position, place_of(seq, task)), encode_task(task, full=self._plan.full))
                for seq, task in rows
                if task.id not in changed
            ]
            await self._send_tasks(parts, ResumePoint(point.position, beyond))
        return await self._ledger.head()

    async def _read_tasks(self, beyond: TaskPlace) -> Sequence[tuple[int, VideoTask]]:
        selected = self._plan.filter
        if selected.nothing:
            return []
        return await self._ledger.list_tasks(
            tenant=self._tenant,
            ids=self._plan.task_ids,
            beyond=beyond,
            limit=BATCH_SIZE,
            **selected.query,
        )

    async def _follow(self, subscription: Subscription, cursor: int, target: int) -> None:
        synced = False
        while True:
            self._check_draining()
            entries, cursor = await self._hub.read(self._tenant, cursor, BATCH_SIZE)
            await self._deliver(entries, cursor)
            if not synced and cursor >= target:
                synced = True
                await self._send(synced=True)
            if synced and self._plan.until_final and not self._not_final:
                return
            if cursor < self._hub.head:
                await self._beat()
                continue
            # Nothing is awaited between the look at the head and the sleep, so that nothing falls between, and a drain
            # that came since the last look is not slept through.
            subscription.rest()
            self._check_draining()
            await subscription.wait(self._sent_at + self._plan.heartbeat - time.monotonic())
            # While it slept there was nothing for it before the first event that it missed.
            cursor = max(cursor, self._hub.head if subscription.missed is None else subscription.missed)
            self._point = ResumePoint(cursor)
            await self._beat()

    async def _deliver(self, entries: Sequence[Entry], reached: int) -> None:
        wanted = [entry for entry in entries if await self._wants(entry)]
        parts = [(ResumePoint(entry.position), entry.part(full=self._plan.full)) for entry in wanted]
        await self._send_tasks(parts, ResumePoint(reached))
        self._not_final.difference_update(entry.task.id for entry in wanted if entry.task.state.final)

    async def _wants(self, entry: Entry) -> bool:
        if self._task_ids:
            return entry.task.id in self._task_ids
        selected = self._plan.filter
        if selected.matches(entry.task):
            return True
        return selected.may_have_left(entry.task) and await self._hub.previous_state(entry) is selected.state

    async def _beat(self) -> None:
        if time.monotonic() - self._sent_at >= self._plan.heartbeat:
            await self._send()

    async def _send_tasks(self, tasks: Sequence[tuple[ResumePoint, bytes]], reached: ResumePoint) -> None:
        """Send encoded tasks, each with the point after it, in as few messages as their size allows."""
        parts: list[bytes] = []
        size = 0
        for point, part in tasks:
            if parts and size + len(part) > MESSAGE_BYTES:
                await self._send(parts)
                parts, size = [], 0
            parts.append(part)
            size += len(part)
            self._point = point
        self._point = reached
        if parts:
            await self._send(parts)

    async def _send(self, parts: Sequence[bytes] = (), *, synced: bool = False) -> None:
        end = WatchVideoTasksResponse(resume_token=self._token(), synced=synced).SerializeToString()
        await self._write(b"".join((*parts, end)))
        self._sent_at = time.monotonic()

    def _token(self) -> str:
        if self._point is None:
            return self._plan.resume_token
        return self._tokens.snapshot(self._point, self._plan.watched)

    def _check_draining(self) -> None:
        if self._hub.draining:
            raise ServerUnavailable(
                "the server is draining; watch again with resume_token to go on without a gap",
                metadata={"resume_token": self._token()},
            )
