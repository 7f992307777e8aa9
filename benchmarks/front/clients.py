"""The processes of load, as the run sees them."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

#: Bytes of the longest answer: some ten thousand latencies.
_LINE: Final = 16 * 2**20

_ORDER_SECONDS: Final = 180.0
_END_SECONDS: Final = 10.0


class ClientFailed(Exception):
    """A process of load has ended, or does not answer."""


class Client:
    """One process of load; its orders are the methods of `benchmarks.front.client.Client`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    @classmethod
    @asynccontextmanager
    async def running(cls, environment: Mapping[str, str]) -> AsyncGenerator[Client]:
        """A process that ends with this context."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.front.client"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=dict(environment),
            limit=_LINE,
        )
        client = cls(process)
        listening = asyncio.create_task(client._listen())
        try:
            yield client
        finally:
            process.terminate()
            try:
                async with asyncio.timeout(_END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
            await listening

    async def order(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Have something done.

        Raises:
            ClientFailed: it has ended, or does not answer.
        """
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"number": number, "do": what, **arguments}).encode() + b"\n")
        try:
            async with asyncio.timeout(_ORDER_SECONDS):
                await self._process.stdin.drain()
                return await answer
        except TimeoutError:
            raise ClientFailed(f"a client does not answer to {what!r}") from None

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            self._waiting.pop(answer.pop("number")).set_result(answer)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(ClientFailed("a client has ended"))


@asynccontextmanager
async def clients(count: int, environment: Mapping[str, str]) -> AsyncGenerator[list[Client]]:
    """So many processes."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client.running(environment)) for _ in range(count)]
