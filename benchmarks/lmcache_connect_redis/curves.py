"""Measures whether the cost of one chunk, and of one look-up, depends on the number of them."""

from __future__ import annotations

import statistics
from typing import Any, Final

from .contenders.connect import Connect
from .measurement import Clock

CHUNK_BYTES: Final = 16 << 10
"""Small, so that the cost of a chunk is measured and not that of its bytes."""
CHUNKS: Final = (10, 100, 1000, 10_000)
LOOK_UPS: Final = (10, 100, 1000, 10_000, 100_000)
ROUNDS: Final = 5


async def curves(url: str) -> dict[str, Any]:
    """Medians in microseconds, of wall time: `chunks` per chunk put and got, `look_ups` per key."""
    contender = Connect()
    await contender.open(url, CHUNK_BYTES, max(CHUNKS))
    try:
        contender.stage([index.to_bytes(8, "little") * (CHUNK_BYTES // 8) for index in range(max(CHUNKS))])
        return {
            "chunk_bytes": CHUNK_BYTES,
            "chunks": [await _chunks(contender, count) for count in CHUNKS],
            "look_ups": [await _look_ups(contender, count) for count in LOOK_UPS],
        }
    finally:
        await contender.close()


async def _chunks(contender: Connect, count: int) -> dict[str, float]:
    keys = [f"curve@1@0@{index:x}@uint8" for index in range(count)]
    put, got = [], []
    for _ in range(ROUNDS + 1):
        clock = Clock()
        with clock.running():
            await contender.put(keys)
        put.append(clock.wall)
        with clock.running():
            await contender.get(keys)
        got.append(clock.wall)
        for index, chunk in enumerate(contender.received()):
            if chunk is None or chunk[-8:] != index.to_bytes(8, "little"):
                raise RuntimeError(f"chunk {index} of {count} is not what was put")
        contender.release()
    return {
        "count": count,
        "us_per_chunk_put": statistics.median(put[1:]) / count * 1e6,
        "us_per_chunk_get": statistics.median(got[1:]) / count * 1e6,
    }


async def _look_ups(contender: Connect, count: int) -> dict[str, float]:
    keys = [f"curve@1@0@{index:x}@uint8" for index in range(count)]
    taken = []
    for _ in range(ROUNDS + 1):
        clock = Clock()
        with clock.running():
            found = await contender.exists(keys)
        if sum(found) != min(count, max(CHUNKS)):
            raise RuntimeError(f"{sum(found)} keys found of {min(count, max(CHUNKS))}")
        taken.append(clock.wall)
    return {"count": count, "us_per_key": statistics.median(taken[1:]) / count * 1e6}
