"""LMCache's own Redis connector, and the recording of what it stores.

Where torch and LMCache 0.5.6 are installed, this writes the recording again, from a server of its own:

    python -m tests.adapters.lmcache_connect_redis.real_lmcache > lmcache_records.json
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lmcache_connect import ChunkMetadata, MemoryFormat
from lmcache_connect.testing import ValkeyServer

LMCACHE_VERSION = "0.5.6"
RECORDED = (
    f"What LMCache {LMCACHE_VERSION}'s RedisConnector.put stored in Valkey, byte by byte: "
    "python -m tests.adapters.lmcache_connect_redis.real_lmcache > lmcache_records.json"
)


@dataclass(frozen=True)
class Stored:
    """One chunk as it was put, and both values that the server then held."""

    key: str
    shapes: list[list[int]]
    dtypes: list[str | None]
    fmt: str
    payload: str
    metadata: str = ""

    def chunk(self) -> ChunkMetadata:
        """What the chunk is in this toolkit's terms: byte buffers have no padding and a dtype."""
        shapes = [[dim for dim in shape if dim] for shape in self.shapes]
        return ChunkMetadata.of(shapes, [dtype or "uint8" for dtype in self.dtypes], MemoryFormat[self.fmt])


def _stored(number: int, shapes: list[list[int]], dtypes: list[str | None], fmt: str, tail: str = "") -> Stored:
    nbytes = ChunkMetadata.of(
        [[dim for dim in shape if dim] for shape in shapes], [dtype or "uint8" for dtype in dtypes]
    ).nbytes
    dtype = {"float16": "half", "float32": "float", "float8_e5m2": "fp8_e5m2"}.get(str(dtypes[0]), "bfloat16")
    payload = bytes((7 * number + index) % 256 for index in range(nbytes))
    return Stored(f"org/model-8B@2@1@{0xC0FFEE00 + number:x}@{dtype}{tail}", shapes, dtypes, fmt, payload.hex())


TO_RECORD = (
    _stored(0, [[2, 1, 4, 2]], ["bfloat16"], "KV_2LTD"),
    _stored(1, [[2, 1, 4, 2]], ["float16"], "KV_2LTD"),
    _stored(2, [[2, 1, 4, 2]], ["float32"], "KV_2LTD"),
    _stored(3, [[2, 1, 4, 2]], ["float64"], "KV_2LTD"),
    _stored(4, [[2, 1, 4, 2]], ["uint8"], "KV_2LTD"),
    _stored(5, [[2, 1, 4, 2]], ["float8_e4m3fn"], "KV_2LTD"),
    _stored(6, [[2, 1, 4, 2]], ["float8_e5m2"], "KV_2LTD"),
    _stored(7, [[2, 1, 3, 2]], ["bfloat16"], "KV_2LTD", "@tenant%a b%c"),
    _stored(8, [[1, 2, 4, 9]], ["bfloat16"], "KV_MLA_FMT"),
    _stored(9, [[4, 2, 3]], ["bfloat16"], "KV_T2D", "@11"),
    _stored(10, [[2, 4, 3]], ["bfloat16"], "KV_2TD", "@11@tenant%a"),
    _stored(11, [[5, 6]], ["bfloat16"], "EC_TD"),
    _stored(12, [[5, 6]], ["bfloat16"], "HS_TD"),
    _stored(13, [[37, 0, 0, 0]], [None], "BINARY_BUFFER"),
    _stored(14, [[2, 3, 4, 2], [2, 1, 4, 5]], ["bfloat16", "float8_e5m2"], "KV_2LTD"),
)


def recorded() -> list[Stored]:
    """The recording."""
    text = Path(__file__).with_name("lmcache_records.json").read_text()
    return [Stored(**stored) for stored in json.loads(text)["records"]]


class RealLMCache:
    """LMCache's `RedisConnector` on the running loop, with its own memory. All chunks have `groups` tensor groups."""

    def __init__(self, url: str, groups: int = 1) -> None:
        import torch
        from lmcache.v1.config import LMCacheEngineConfig
        from lmcache.v1.memory_allocators.mixed_memory_allocator import MixedMemoryAllocator
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.connector.redis_connector import RedisConnector
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend

        try:
            from lmcache.inprocess.v1.protocol import init_remote_metadata_info
        except ImportError:  # before LMCache 0.5.7
            from lmcache.v1.protocol import init_remote_metadata_info

        config = LMCacheEngineConfig.from_defaults()
        metadata = LMCacheMetadata("org/model-8B", 2, 2, 1, 1, torch.bfloat16, (1, 2, 4, 1, 2), chunk_size=4)
        self._memory = MixedMemoryAllocator(1 << 22)
        self._backend = LocalCPUBackend(config, metadata, "cpu", memory_allocator=self._memory)
        self._connector = RedisConnector(url, asyncio.get_running_loop(), self._backend)
        init_remote_metadata_info(groups)  # a connector does so for its model's groups; one number a process

    async def __aenter__(self) -> RealLMCache:
        return self

    async def __aexit__(self, *_: object) -> None:
        # Its close() waits on the loop's own thread for the loop, for ever; so its two halves, each where it can end.
        await asyncio.wait_for(asyncio.to_thread(self._connector.pq_executor.shutdown, False), 10)
        await self._connector.connection.aclose()
        await self._connector.pool.aclose()
        self._memory.close()

    async def put(self, stored: Stored) -> None:
        """Puts the chunk as an engine's backend does."""
        import torch
        from lmcache.v1.memory_management import MemoryFormat as TheirFormat

        obj = self._backend.allocate(
            [torch.Size(shape) for shape in stored.shapes],
            [None if dtype is None else getattr(torch, dtype) for dtype in stored.dtypes],
            TheirFormat[stored.fmt],
        )
        memoryview(obj.byte_array).cast("B")[:] = bytes.fromhex(stored.payload)
        await self._connector.put(_their_key(stored.key), obj)
        obj.ref_count_down()

    async def get(self, key: str) -> tuple[list[list[int]], list[str | None], str, bytes] | None:
        """Shapes, dtypes, format and bytes of what LMCache makes of a chunk in the store; None for its miss."""
        obj = await self._connector.get(_their_key(key))
        if obj is None:
            return None
        shapes = [list(shape) for shape in obj.get_shapes()]
        dtypes = [None if dtype is None else str(dtype).removeprefix("torch.") for dtype in obj.get_dtypes()]
        payload = bytes(memoryview(obj.byte_array).cast("B"))
        obj.ref_count_down()
        return shapes, dtypes, obj.get_memory_format().name, payload

    async def exists(self, key: str) -> bool:
        """What LMCache says of a chunk's presence."""
        return bool(await self._connector.exists(_their_key(key)))


def _their_key(key: str) -> Any:
    from lmcache.utils import parse_cache_key

    return parse_cache_key(key)


async def record(server: ValkeyServer) -> list[Stored]:
    """What LMCache stores for each of `TO_RECORD`."""
    found = []
    for chunk in TO_RECORD:
        async with RealLMCache(server.url(), len(chunk.shapes)) as lmcache:
            await lmcache.put(chunk)
        with server.client() as client:
            metadata, payload = client.mget(chunk.key + "metadata", chunk.key + "kv_bytes")
        found.append(replace(chunk, metadata=metadata.hex(), payload=payload.hex()))
    return found


def main() -> None:
    with ValkeyServer() as server:
        stored = asyncio.run(record(server))
    lines = ",\n".join(json.dumps(vars(one)) for one in stored)
    sys.stdout.write(f'{{"recorded": {json.dumps(RECORDED)},\n"records": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
