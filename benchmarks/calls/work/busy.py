"""`Busy`: a lone look-up while large chunks stream both ways."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Final

from ..case import MIB
from ..clients import Connect
from .work import SMALL, Work, WrongDataError, freeze_heap, names, payload, verify, verify_found

CHUNK: Final = 32 * MIB
PAUSE: Final = 0.002
"""Seconds between two look-ups."""
STAMP: Final = 64
"""Bytes of each chunk that are compared while the chunks stream; after the round, all of them are."""


class Busy(Work):
    """Two puts and two gets of 32 MiB are under way at any time; beside them, one look-up after the other."""

    seconds = 2.0
    """Of a round."""

    async def open(self) -> None:
        self._client = client = Connect()
        await client.open(self.url, 8 * (CHUNK + (64 << 10)), self.stack)
        self._keys = names("busy", 4)
        [self._small] = names("small", 1)
        self._payloads = [payload(key, CHUNK) for key in self._keys]
        self._objs = [client.stage(data) for data in self._payloads]
        small = client.stage(payload("small", SMALL))
        for obj in (*self._objs, small):
            self.stack.callback(client.release, obj)
        await client.batched_put(self._keys, self._objs)
        await client.put(self._small, small)
        freeze_heap(self.stack)

    async def round(self, number: int) -> dict[str, float]:
        client, moved = self._client, 0
        ends = time.perf_counter() + self.seconds

        async def put(index: int) -> None:
            nonlocal moved
            while time.perf_counter() < ends:
                await client.put(self._keys[index], self._objs[index])
                moved += CHUNK

        async def get(index: int) -> None:
            nonlocal moved
            while time.perf_counter() < ends:
                obj = await client.get(self._keys[index])
                if obj is None or bytes(obj.byte_array[:STAMP]) != self._payloads[index][:STAMP]:
                    raise WrongDataError(f"chunk {index} is not what was put")
                client.release(obj)
                moved += CHUNK

        async def look_up() -> list[float]:
            waits, found = [], []
            while time.perf_counter() < ends:
                begun = time.perf_counter()
                found.append(await client.exists(self._small))
                waits.append(time.perf_counter() - begun)
                await asyncio.sleep(PAUSE)
            verify_found(client, found, [True] * len(found))
            return waits

        cpu, wall = time.process_time(), time.perf_counter()
        waits, *_ = await asyncio.gather(look_up(), put(0), put(1), get(2), get(3))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        verify(client, await client.batched_get(self._keys), self._payloads)
        percentiles = statistics.quantiles(waits, n=100, method="inclusive")
        return {
            "us": percentiles[98] * 1e6,
            "p50 us": percentiles[49] * 1e6,
            "longest us": max(waits) * 1e6,
            "look-ups": len(waits),
            "GB/s": moved / 1e9 / wall,
            "CPU s/GB": cpu / (moved / 1e9),
        }
