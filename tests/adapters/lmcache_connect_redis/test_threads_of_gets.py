"""Which threads receive large chunks: none for a lone get of a few MiB, two for a batch, one for each of a ring."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.memory import release_all
from lmcache_connect.testing import RingServers, ValkeyServer

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
KEYS = ("lone@1@0@1@uint8", "lone@1@0@2@uint8", "lone@1@0@3@uint8")


@pytest.fixture
def couriers_of_others() -> set[threading.Thread]:
    return couriers()


def couriers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "lmcache-connect courier"}


@pytest_asyncio.fixture
async def stored(
    request: pytest.FixtureRequest, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    """A connector that knows the size of the chunks that are there, and has moved none of them in a thread."""
    nbytes, io = request.param
    config = ConnectorConfig.load(operation_timeout=10)
    url = valkey_server.url(options={"io": io})
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend, config=config) as writing:
        objs = [chunk(local_cpu_backend, key, nbytes) for key in KEYS]
        await writing.create_connector().batched_put(list(KEYS), objs)
        release_all(objs)
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend, config=config) as manager:
        connector = manager.create_connector()
        assert holds(await connector.get(KEYS[0]), KEYS[0])
        yield connector


@pytest.mark.parametrize("stored", [(MIB, "auto"), (4 * MIB, "auto")], indirect=True)
async def test_a_lone_get_stays_on_the_event_loop(
    couriers_of_others: set[threading.Thread], stored: ManagedConnector
) -> None:
    for key in KEYS:
        assert holds(await stored.get(key), key)
    assert couriers() <= couriers_of_others


@pytest.mark.parametrize("stored", [(4 * MIB + 4096, "auto"), (MIB, "thread")], indirect=True)
async def test_a_larger_one_and_each_of_io_thread_has_a_thread(
    couriers_of_others: set[threading.Thread], stored: ManagedConnector
) -> None:
    assert holds(await stored.get(KEYS[1]), KEYS[1])
    assert couriers() - couriers_of_others


@pytest.mark.parametrize("stored", [(4 * MIB, "auto")], indirect=True)
async def test_the_second_of_two_gets_has_a_thread(
    couriers_of_others: set[threading.Thread], stored: ManagedConnector
) -> None:
    found = await asyncio.gather(*map(stored.get, KEYS))
    assert [holds(obj, key) for obj, key in zip(found, KEYS, strict=True)] == [True] * len(KEYS)
    assert couriers() - couriers_of_others


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
@pytest.mark.parametrize("stored", [(4 * MIB, "auto")], indirect=True)
async def test_two_threads_get_a_batch(couriers_of_others: set[threading.Thread], stored: ManagedConnector) -> None:
    keys = [*KEYS, *KEYS]
    found = await stored.batched_get(keys)
    assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * len(keys)
    assert len(couriers() - couriers_of_others) == 2


async def test_one_thread_gets_the_chunks_of_each_server_of_a_ring(
    couriers_of_others: set[threading.Thread], local_cpu_backend: LocalCPUBackend
) -> None:
    keys = [f"ring@1@0@{number:x}@uint8" for number in range(8)]
    with RingServers(count=2) as ring:
        async with ConnectorManager(ring.url(), local_cpu_backend=local_cpu_backend) as manager:
            connector = manager.create_connector()
            objs = [chunk(local_cpu_backend, key, 2 * MIB) for key in keys]
            await connector.batched_put(keys, objs)
            release_all(objs)
            found = await connector.batched_get(keys)
            assert [holds(obj, key) for obj, key in zip(found, keys, strict=True)] == [True] * len(keys)
            assert len(couriers() - couriers_of_others) == 2
