"""`Together`: many single calls under way at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from ..clients import ASYNC, Connect
from .work import SMALL, Clock, Work, freeze_heap, names, payload, verify, verify_found

CALLS: Final = 1000
"""Calls in a round, at least."""


class Together(Work):
    """`asyncio.gather` of `calls` single calls, each of a key of its own. Every second look-up is of a key that is not
    there. What it takes for each call, from the first coroutine that is made to the last result."""

    async def open(self) -> None:
        case = self.case
        self._client = client = ASYNC[self.client_name]()
        nbytes = case.nbytes or SMALL
        await client.open(self.url, (case.calls + 64) * (nbytes + 4096), self.stack)
        self._keys = names("together", case.calls)
        self._payloads = [payload(key, nbytes) for key in self._keys]
        for key, data in list(zip(self._keys, self._payloads, strict=True))[:: 1 if case.nbytes else 2]:
            staged = client.stage(data)
            await client.put(key, staged)
            client.release(staged)
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        client, keys = self._client, self._keys
        call = client.get if self.case.nbytes else client.exists
        clock, repeats = Clock(), max(1, CALLS // len(keys))
        for _ in range(repeats):
            with clock.running():
                results = await asyncio.gather(*[call(key) for key in keys])
            self._verify(results)
        figures = clock.per_call(repeats * len(keys))
        return figures | await self._least(client, repeats) if isinstance(client, Connect) else figures

    async def _least(self, client: Connect, repeats: int) -> dict[str, float]:
        """What each call costs at least: a task of asyncio that waits once, and its share of one batch.

        No client can do with less where each call has a task and gets its answer later. The batch's share is what the
        connection, the checksum and the memory cost.
        """
        keys = self._keys
        waiting, batch = Clock(), Clock()
        for _ in range(repeats):
            with waiting.running():
                await _wait_together(len(keys))
            with batch.running():
                results = await (client.batched_get(keys) if self.case.nbytes else client.batched_exists(keys))
            self._verify(results)
        calls = repeats * len(keys)
        return {"waiting cpu us": waiting.cpu / calls * 1e6, "batch cpu us": batch.cpu / calls * 1e6}

    def _verify(self, results: Sequence[Any]) -> None:
        if self.case.nbytes:
            verify(self._client, results, self._payloads)
        else:
            verify_found(self._client, results, [index % 2 == 0 for index in range(len(self._keys))])


async def _wait_together(calls: int) -> None:
    """`asyncio.gather` of as many tasks, each of which waits for a future that is set when all wait."""
    loop = asyncio.get_running_loop()
    answers = [loop.create_future() for _ in range(calls)]

    def answer() -> None:
        for each in answers:
            each.set_result(None)

    loop.call_soon(loop.call_soon, answer)
    await asyncio.gather(*[_wait_for(each) for each in answers])


async def _wait_for(answer: asyncio.Future[None]) -> None:
    await answer
