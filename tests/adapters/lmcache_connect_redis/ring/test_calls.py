"""Calls whose keys lie on several servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer

from ..chunks import chunk, holds, payload
from .rings import Servers

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

KEYS = [f"k{number}" for number in range(60)]
NBYTES = 5000


@pytest_asyncio.fixture(params=["auto", "thread", "loop"])
async def connector(
    request: pytest.FixtureRequest, servers: Servers, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(servers.url(io=request.param), local_cpu_backend=backend) as manager:
        yield manager.create_connector()


async def put_all(connector: ManagedConnector, backend: LocalCPUBackend, keys: list[str], nbytes: int = NBYTES) -> None:
    objs = [chunk(backend, key, nbytes) for key in keys]
    try:
        await connector.batched_put(keys, objs)
    finally:
        for obj in objs:
            obj.ref_count_down()


async def test_a_batch_comes_back_in_its_order_from_all_servers(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put_all(connector, backend, KEYS)
    for index in range(3):
        mine = [key for key in KEYS if servers.index_of(key) == index]
        assert servers.names_on(index) == set(chunk_names("", mine))
        assert mine
    asked = ["none0", *KEYS, "none1"]
    found = await connector.batched_get(asked)
    assert [obj is not None for obj in found] == [False, *[True] * len(KEYS), False]
    assert all(holds(obj, key) for obj, key in zip(found[1:-1], KEYS, strict=True))
    assert await connector.batched_exists(asked) == [False, *[True] * len(KEYS), False]
    assert await connector.batched_async_contains("", KEYS) == len(KEYS)


async def test_memory_of_the_caller_is_filled_in_its_order(
    connector: ManagedConnector, backend: LocalCPUBackend
) -> None:
    sources = [payload(key, NBYTES) for key in KEYS]
    assert await connector.batched_put_from(KEYS, sources) == [True] * len(KEYS)
    buffers = [bytearray(NBYTES) for _ in KEYS] + [bytearray(NBYTES), bytearray(NBYTES - 1)]
    flags = await connector.batched_get_into([*KEYS, "none", KEYS[0]], buffers)
    assert flags == [True] * len(KEYS) + [False, False]  # the last one's length is another
    assert [bytes(buffer) for buffer in buffers[: len(KEYS)]] == sources
    assert connector.statistics()["batched_get_into"].misses == {"absent": 1, "mismatch": 1}


async def test_large_chunks_come_from_all_servers(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    keys = KEYS[:12]
    await put_all(connector, backend, keys, 6 << 20)
    found = await connector.batched_get(keys)
    assert all(holds(obj, key) for obj, key in zip(found, keys, strict=True))


async def test_listing_scanning_and_removing_reach_every_server(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put_all(connector, backend, KEYS)
    assert sorted(await connector.list()) == sorted(KEYS)
    assert sorted([key async for key in connector.scan("k1")]) == sorted(key for key in KEYS if key.startswith("k1"))
    assert await connector.remove(KEYS[0]) is True
    assert await connector.remove(KEYS[0]) is False
    assert await connector.batched_remove(KEYS) == [True] * len(KEYS)
    assert await connector.list() == []
    assert [servers.names_on(index) for index in range(3)] == [set()] * 3


async def test_what_lies_on_another_server_than_its_own_is_not_listed(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put_all(connector, backend, ["k0"])
    [name] = chunk_names("", ["k0"])
    here = servers.index_of("k0")
    with servers.servers[here].client() as client, servers.servers[here - 1].client() as other:
        other.set(name, client.get(name))
        client.delete(name)
    assert await connector.list() == []
    assert await connector.get("k0") is None


async def test_a_damaged_record_is_removed_from_its_own_server(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put_all(connector, backend, KEYS)
    [name] = chunk_names("", ["k7"])
    with servers.servers[servers.index_of("k7")].client() as client:
        record = bytearray(client.get(name))
        record[-20] ^= 1
        client.set(name, bytes(record))
        found = await connector.batched_get(KEYS)
        assert found[7] is None
        assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True) if key != "k7")
        assert not client.exists(name)


async def test_every_server_keeps_the_announcements(connector: ManagedConnector, servers: Servers) -> None:
    await connector.put_from("k0", payload("k0", NBYTES))
    inside = connector.inside
    await inside.announce("worker-1", b'{"a": 1}', 60)
    await inside.announce("worker-2", b'{"a": 2}', 60)
    assert sorted(await inside.announced()) == [b'{"a": 1}', b'{"a": 2}']
    with servers.servers[0].client() as client:
        client.flushall()  # as a server does that was away
    assert sorted(await inside.announced()) == [b'{"a": 1}', b'{"a": 2}']
    await inside.withdraw("worker-1")
    assert await inside.announced() == [b'{"a": 2}']


async def test_a_ping_asks_every_server(connector: ManagedConnector) -> None:
    assert connector.support_ping()
    assert await connector.ping() == 0
    assert [state.failures for state in connector.servers()] == [0, 0, 0]


async def test_single_calls_of_threads_need_the_loop_only_once_for_each_server(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(servers.url(), local_cpu_backend=backend) as manager:
        connector = manager.create_connector()
        keys = [servers.keys_on(index, 1)[0] for index in range(3)]

        def call() -> None:
            for key in keys:
                assert connector.sync.put_from(key, payload(key, NBYTES)) is True
                assert holds(connector.sync.get(key), key)
                assert connector.sync.exists(key) is True
                assert connector.sync.exists(f"{key}-none") is False
                buffer = bytearray(NBYTES)
                assert connector.sync.get_into(key, buffer) is True
                assert bytes(buffer) == payload(key, NBYTES)

        for _ in range(5):
            await asyncio.to_thread(call)
        connections = 0
        for server in servers.servers:
            with server.client() as client:
                connections += sum(b"lmcache" in each["name"].encode() for each in client.client_list())
        assert connections >= 6  # a thread's own, besides the loop's
        assert connector.statistics()["get"].hits == 15


async def test_a_ring_serves_with_the_prefix_the_layout_and_the_database_of_its_url(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    for options in ({"prefix": "p"}, {"layout": "lmcache"}, {"db": "2"}):
        servers.flush()
        async with ConnectorManager(servers.url(**options), local_cpu_backend=backend) as manager:
            connector = manager.create_connector()
            await put_all(connector, backend, KEYS)
            found = await connector.batched_get(KEYS)
            assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True)), options
            assert sorted(await connector.list()) == sorted(KEYS)


async def test_a_server_that_is_added_moves_only_its_share_of_the_keys(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    with ValkeyServer() as fourth:
        async with ConnectorManager(local_cpu_backend=backend, config=ConnectorConfig()) as manager:
            await put_all(manager.create_connector(servers.url()), backend, KEYS)
            grown = Servers([*servers.servers, fourth])
            connector = manager.create_connector(grown.url())
            moved = [key for key in KEYS if grown.index_of(key) == 3]
            assert 0 < len(moved) < len(KEYS) / 2
            assert await connector.batched_exists(KEYS) == [key not in moved for key in KEYS]
            await put_all(connector, backend, moved)
            assert sorted(await connector.list()) == sorted(KEYS)
            assert grown.names_on(3) == set(chunk_names("", moved))
