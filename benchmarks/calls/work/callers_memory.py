"""`CallersMemory`: batches in memory of the caller against batches in the arena."""

from __future__ import annotations

from operator import ne

from ..clients import Connect
from .work import Clock, Work, WrongDataError, freeze_heap, names, payload, verify

_STAMP = 8
"""Bytes at the head of a chunk that change with every put."""


class CallersMemory(Work):
    """GB/s of both ways in one round, the other way first in the next round.

    A get into the arena counts with the release of its chunks, which is when an engine has copied them.
    """

    async def open(self) -> None:
        case = self.case
        self._client = client = Connect()
        await client.open(self.url, (3 * case.calls + 4) * (case.nbytes + (64 << 10)), self.stack)
        self._keys = names(f"memory-{case.nbytes}", case.calls)
        self._contents = [payload(key, case.nbytes) for key in self._keys]
        self._objs = [client.stage(content) for content in self._contents]
        for obj in self._objs:
            self.stack.callback(client.release, obj)
        self._memory: list[memoryview] = []  # pages of the same kind as those of the arena
        for content in self._contents:
            obj = client.stage(content)
            self.stack.callback(client.release, obj)
            self._memory.append(obj.byte_array)
        self.stack.callback(self._let_go)
        step = case.nbytes // case.regions
        self._regions = [[chunk[at : at + step] for at in range(0, case.nbytes, step)] for chunk in self._memory]
        self._stamps = 0
        await client.batched_put(self._keys, self._objs)
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        is_put = self.case.operation == "put"
        ways = {
            "caller": self._put_from if is_put else self._get_into,
            "batch": self._put if is_put else self._get,
        }
        gigabytes = self.case.nbytes * self.case.calls / 1e9
        figures: dict[str, float] = {}
        for name in sorted(ways, reverse=bool(number % 2)):
            clock = Clock()
            await ways[name](clock)
            figures |= {f"{name} GB/s": gigabytes / clock.wall, f"{name} CPU s/GB": clock.cpu / gigabytes}
        return figures | {"ratio": figures["caller GB/s"] / figures["batch GB/s"]}

    async def _get_into(self, clock: Clock) -> None:
        for chunk in self._memory:
            chunk[:] = bytes(len(chunk))
        with clock.running():
            found = await self._client.batched_get_into(self._keys, self._regions)
        self._check(found)

    async def _get(self, clock: Clock) -> None:
        with clock.running():
            values = await self._client.batched_get(self._keys)
        verify(self._client, values, self._contents)

    async def _put_from(self, clock: Clock) -> None:
        self._stamp()
        for chunk, content in zip(self._memory, self._contents, strict=True):
            chunk[:] = content
        with clock.running():
            stored = await self._client.batched_put_from(self._keys, self._regions)
        self._check(stored)
        verify(self._client, await self._client.batched_get(self._keys), self._contents)

    async def _put(self, clock: Clock) -> None:
        self._stamp()
        for obj, content in zip(self._objs, self._contents, strict=True):
            obj.byte_array[:] = content
        with clock.running():
            await self._client.batched_put(self._keys, self._objs)
        verify(self._client, await self._client.batched_get(self._keys), self._contents)

    def _let_go(self) -> None:
        self._memory.clear()
        self._regions.clear()

    def _check(self, flags: list[bool]) -> None:
        if not all(flags) or any(map(ne, self._memory, self._contents)):
            raise WrongDataError(f"{self._client.name}: a chunk in memory of the caller is not what was put")

    def _stamp(self) -> None:
        """Makes the next put one of new bytes, so that one which stores nothing is noticed."""
        self._stamps += 1
        stamp = self._stamps.to_bytes(_STAMP, "big")
        self._contents = [stamp + content[_STAMP:] for content in self._contents]
