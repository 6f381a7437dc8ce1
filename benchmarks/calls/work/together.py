"""`Together`: many single calls under way at the same time."""

from __future__ import annotations

import asyncio
from typing import Final

from ..clients import ASYNC
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
            if self.case.nbytes:
                verify(client, results, self._payloads)
            else:
                verify_found(client, results, [index % 2 == 0 for index in range(len(keys))])
        return clock.per_call(repeats * len(keys))
