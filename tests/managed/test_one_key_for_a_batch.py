"""A str is a sequence as well, of its characters: where a batch of keys is expected it is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from lmcache_connect import CacheEngineKey, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import InvalidArgumentError

ONE_KEY: Final = (
    pytest.param("ab", "a str; expected a sequence of keys", id="str"),
    pytest.param(b"ab", "a bytes; expected a sequence of keys", id="bytes"),
    pytest.param(CacheEngineKey("m", 1, 0, 1, "half"), "a CacheEngineKey; expected a sequence of keys", id="key"),
    pytest.param(None, "a NoneType; expected a sequence of keys", id="none"),
)

CALLS: Final[tuple[Callable[[ManagedConnector, Any], Any], ...]] = (
    lambda connector, keys: connector.batched_exists(keys),
    lambda connector, keys: connector.batched_get(keys),
    lambda connector, keys: connector.batched_get_non_blocking("", keys),
    lambda connector, keys: connector.batched_async_contains("", keys),
    lambda connector, keys: connector.batched_remove(keys),
    lambda connector, keys: connector.remove_outdated(keys),
    lambda connector, keys: connector.batched_put(keys, []),
    lambda connector, keys: asyncio.to_thread(connector.sync.contains, keys),
    lambda connector, keys: asyncio.to_thread(connector.sync.batched_exists, keys),
    lambda connector, keys: asyncio.to_thread(connector.sync.batched_get, keys),
    lambda connector, keys: asyncio.to_thread(connector.sync.batched_put, keys, []),
    lambda connector, keys: asyncio.to_thread(connector.batched_contains, keys),
)

OF_THE_BASE_CLASS: Final[tuple[Callable[[ManagedConnector, Any], Any], ...]] = (
    lambda connector, keys: connector.wrapped.batched_exists(keys),
    lambda connector, keys: connector.wrapped.batched_get(keys),
    lambda connector, keys: connector.wrapped.batched_get_non_blocking("", keys),
    lambda connector, keys: connector.wrapped.batched_async_contains("", keys),
    lambda connector, keys: connector.wrapped.batched_remove(keys),
    lambda connector, keys: connector.wrapped.batched_put(keys, []),
)


@pytest.mark.asyncio
@pytest.mark.parametrize("scheme", ["memory", "hot+memory"])
@pytest.mark.parametrize(("keys", "said"), ONE_KEY)
async def test_a_batch_that_is_one_key_is_refused_by_every_call_and_nothing_is_removed(
    local_cpu_backend: LocalCPUBackend, scheme: str, keys: Any, said: str
) -> None:
    async with ConnectorManager(f"{scheme}://one-key", None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        with local_cpu_backend.allocate((8,), "uint8") as chunk:  # type: ignore[union-attr]
            await connector.batched_put(["a", "b"], [chunk, chunk])
        for call in CALLS if scheme != "memory" else CALLS + OF_THE_BASE_CLASS:
            with pytest.raises(InvalidArgumentError, match=said):
                await call(connector, keys)
        assert sorted(await connector.list()) == ["a", "b"]
        assert await connector.batched_remove(["a", "b"]) == [True, True]


@pytest.mark.asyncio
async def test_one_chunk_for_a_batch_of_chunks_is_refused(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager("memory://one-chunk", None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        with (
            local_cpu_backend.allocate((8,), "uint8") as chunk,  # type: ignore[union-attr]
            pytest.raises(InvalidArgumentError, match="a MemoryObj; expected a sequence of memory objects"),
        ):
            await connector.batched_put(["a"], chunk)  # type: ignore[arg-type]


@pytest.mark.parametrize(("keys", "said"), ONE_KEY)
def test_a_batch_for_the_hot_cache_that_is_one_key_is_refused(
    local_cpu_backend: LocalCPUBackend, keys: Any, said: str
) -> None:
    with local_cpu_backend.allocate((8,), "uint8") as chunk:  # type: ignore[union-attr]
        with pytest.raises(InvalidArgumentError, match=said):
            local_cpu_backend.batched_submit_put_task(keys, [chunk, chunk])
        assert local_cpu_backend.get_keys() == []
