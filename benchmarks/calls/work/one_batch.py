"""`OneBatch`: concurrent single calls against one batch of the same chunks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..clients import Connect
from .work import Clock, Work, freeze_heap, names, payload, verify

STAMP = 8
"""Bytes at the head of a chunk that change with every put."""


class OneBatch(Work):
    """GB/s of both ways in one round, the other way first in the next round."""

    async def open(self) -> None:
        case = self.case
        self._client = client = Connect()
        await client.open(self.url, (2 * case.calls + 4) * (case.nbytes + (64 << 10)), self.stack)
        self._keys = names(f"batch-{case.nbytes}", case.calls)
        self._objs = [client.stage(payload(key, case.nbytes)) for key in self._keys]
        for obj in self._objs:
            self.stack.callback(client.release, obj)
        self._stamps = 0
        self._stamp()
        await client.batched_put(self._keys, self._objs)
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        ways = {"alone": self._alone, "batch": self._batch}
        gigabytes = self.case.nbytes * self.case.calls / 1e9
        figures: dict[str, float] = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            clock = Clock()
            if self.case.operation == "put":
                self._stamp()
            await ways[name](clock)
            figures |= {f"{name} GB/s": gigabytes / clock.wall, f"{name} CPU s/GB": clock.cpu / gigabytes}
        return figures | {"ratio": figures["alone GB/s"] / figures["batch GB/s"]}

    async def _alone(self, clock: Clock) -> None:
        client = self._client
        if self.case.operation == "put":
            with clock.running():
                await asyncio.gather(*[client.put(*pair) for pair in zip(self._keys, self._objs, strict=True)])
            self._verify(await client.batched_get(self._keys))
        else:
            with clock.running():
                values = await asyncio.gather(*[client.get(key) for key in self._keys])
            self._verify(values)

    async def _batch(self, clock: Clock) -> None:
        client = self._client
        if self.case.operation == "put":
            with clock.running():
                await client.batched_put(self._keys, self._objs)
            self._verify(await client.batched_get(self._keys))
        else:
            with clock.running():
                values = await client.batched_get(self._keys)
            self._verify(values)

    def _verify(self, values: Sequence[object]) -> None:
        verify(self._client, values, (self._client.received(obj) for obj in self._objs))

    def _stamp(self) -> None:
        """Makes the next put one of new bytes, so that one which stores nothing is noticed."""
        for obj in self._objs:
            self._stamps += 1
            obj.byte_array[:STAMP] = self._stamps.to_bytes(STAMP, "big")
