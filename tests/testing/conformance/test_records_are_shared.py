"""What the plain Redis connector writes the fast one reads, and the other way round."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import CacheEngineKey, ConnectorManager, LayerCacheEngineKey, LocalCPUBackend, ManagedConnector
from lmcache_connect.dtypes import known_dtypes
from lmcache_connect.testing import payload
from lmcache_reference_connectors.redis import RedisReferenceAdapter

pytestmark = pytest.mark.asyncio

Pair = tuple[ManagedConnector, ManagedConnector]

CHUNKS: tuple[tuple[Any, Any], ...] = (
    *(((2, 2, 7, 8), name) for name in known_dtypes()),
    ([(2, 3, 16, 8), (2, 1, 16, 32)], ["bfloat16", "fp8_e5m2"]),
    ((1, 4, 256, 576), "half"),
    ((1,), "uint8"),
    (((1 << 20) + 1,), "uint8"),
)


@pytest_asyncio.fixture
async def connectors(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[Pair]:
    async with ConnectorManager(local_cpu_backend=local_cpu_backend) as manager:
        manager.register(RedisReferenceAdapter)
        plain = manager.create_connector(valkey_url.replace("redis://", "plain-redis://", 1))
        yield plain, manager.create_connector(valkey_url)


@pytest.mark.parametrize("plain_writes", [True, False])
async def test_what_one_writes_the_other_reads(
    connectors: Pair, local_cpu_backend: LocalCPUBackend, plain_writes: bool
) -> None:
    plain, fast = connectors
    writer, reader = (plain, fast) if plain_writes else (fast, plain)
    for index, (shapes, dtypes) in enumerate(CHUNKS):
        key = CacheEngineKey("org/modèle", 2, 1, index, "half", {"lmcache.tag.tenant": "a b%"})
        given = await local_cpu_backend.allocate_async(shapes, dtypes)
        metadata = given.metadata
        with given:
            given.byte_array[:] = payload(key, metadata.nbytes)
            await writer.put(key, given)
        got = await reader.get(key)
        assert got is not None
        with got:
            assert got.metadata == metadata
            assert bytes(got.byte_array) == payload(key, metadata.nbytes)


@pytest.mark.parametrize("plain_writes", [True, False])
async def test_what_one_stores_and_removes_the_other_sees(
    connectors: Pair, local_cpu_backend: LocalCPUBackend, plain_writes: bool
) -> None:
    plain, fast = connectors
    writer, reader = (plain, fast) if plain_writes else (fast, plain)
    keys = [LayerCacheEngineKey("model", 1, 0, 7, "half", None, layer) for layer in range(6)]
    with await local_cpu_backend.allocate_async((100,), "uint8") as obj:
        await writer.batched_put(keys[:4], [obj] * 4)
        await writer.put("a*b [c] \u00e4", obj)
    assert await reader.batched_exists(keys) == [True] * 4 + [False] * 2
    assert await reader.batched_async_contains("lookup", keys) == 4
    assert sorted(await reader.list()) == sorted([*map(str, keys[:4]), "a*b [c] \u00e4"])
    found = await reader.batched_get(keys)
    assert [obj is not None for obj in found] == [True] * 4 + [False] * 2
    for chunk in found:
        if chunk is not None:
            chunk.ref_count_down()
    assert await reader.remove(keys[0])
    assert not await writer.exists(keys[0])


async def test_readers_of_both_kinds_see_whole_chunks_of_writers_of_both_kinds(
    connectors: Pair, local_cpu_backend: LocalCPUBackend
) -> None:
    key = "chunk"
    nbytes = 300_000
    whole = {payload(key, nbytes, version) for version in range(2)}
    writing = 2

    async def write(connector: ManagedConnector, version: int) -> None:
        nonlocal writing
        with await local_cpu_backend.allocate_async((nbytes,), "uint8") as obj:
            obj.byte_array[:] = payload(key, nbytes, version)
            for _ in range(15):
                await connector.put(key, obj)
        writing -= 1

    async def read(connector: ManagedConnector) -> None:
        while writing:
            obj = await connector.get(key)
            if obj is not None:
                with obj:
                    assert bytes(obj.byte_array) in whole

    async with asyncio.TaskGroup() as group:
        for version, connector in enumerate(connectors):
            group.create_task(write(connector, version))
            group.create_task(read(connector))
