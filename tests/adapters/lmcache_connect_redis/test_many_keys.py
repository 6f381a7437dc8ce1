"""Removals, listings and clearings of many keys, on servers that are far away and on ones that others use as well."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.oversight import clear
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer

from .chunks import chunk

pytestmark = pytest.mark.asyncio

LAYOUTS: Final = ("connect", "lmcache")


@pytest.fixture
def proxy(valkey_server: ValkeyServer) -> Iterator[FaultProxy]:
    with FaultProxy(valkey_server.host, valkey_server.port) as made:
        yield made


def far(seconds: float) -> Fault:
    return Fault(FaultKind.DELAY, delay=seconds)


def names(key: str, layout: str) -> list[str]:
    """What a chunk's names are in the store."""
    return [f"{key}metadata", f"{key}kv_bytes"] if layout == "lmcache" else chunk_names("", [key])


def fill(server: ValkeyServer, keys: list[str], layout: str = "connect") -> None:
    with server.client() as raw:
        raw.mset({name: b"x" for key in keys for name in names(key, layout)})


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_many_keys_are_removed_in_few_round_trips(
    valkey_server: ValkeyServer, valkey_url: str, proxy: FaultProxy, layout: str
) -> None:
    keys = [f"k{number}" for number in range(512)]
    fill(valkey_server, keys[:500], layout)
    async with ConnectorManager(f"redis://{proxy.host}:{proxy.port}?layout={layout}") as manager:
        connector = manager.create_connector()
        await connector.ping()
        proxy.arm(far(0.02))
        async with asyncio.timeout(5):  # one after the other would take ten seconds
            assert await connector.batched_remove(keys) == [True] * 512
        proxy.disarm()
        assert await connector.list() == []


async def test_a_clearing_of_many_keys_far_away_meets_no_deadline(
    valkey_server: ValkeyServer, valkey_url: str, proxy: FaultProxy
) -> None:
    fill(valkey_server, [f"k{number}" for number in range(2331)])
    config = ConnectorConfig.load(operation_timeout=0.5, retries=0)
    async with ConnectorManager(f"redis://{proxy.host}:{proxy.port}", config=config) as manager:
        connector = manager.create_connector()
        await connector.ping()
        proxy.arm(far(0.05))
        found = await clear(connector, "")
    assert (found.matched, found.removed, found.failed, found.is_complete) == (2331, 2331, 0, True)


async def test_a_listing_may_take_longer_than_a_deadline_while_it_passes_other_programs_keys(
    valkey_server: ValkeyServer, valkey_url: str, proxy: FaultProxy
) -> None:
    with valkey_server.client() as raw:
        raw.mset({f"other {number}": b"" for number in range(20_000)})
    fill(valkey_server, ["ours"])
    config = ConnectorConfig.load(operation_timeout=1, retries=0)
    async with ConnectorManager(f"redis://{proxy.host}:{proxy.port}", config=config) as manager:
        connector = manager.create_connector()
        await connector.ping()
        proxy.arm(far(0.08))
        assert await connector.list() == ["ours"]  # twenty pages
        assert [name async for name in connector.scan()] == ["ours"]


@pytest.mark.parametrize("server", ["valkey_server", "redis_server"])
@pytest.mark.parametrize("layout", LAYOUTS)
async def test_what_is_listed_can_be_removed_and_keys_of_others_stay(
    request: pytest.FixtureRequest, server: str, layout: str
) -> None:
    store: ValkeyServer = request.getfixturevalue(server)
    store.flush()
    odd = [b"job 1\n", b"\xff\x00", b"", b"x" * 5000, b"x" * 9000]
    with store.client() as raw:
        for text in odd:
            raw.set(text or b"plain", b"v")
            for name in names("KEY", layout):  # made like the names of chunks
                raw.set(name.encode().replace(b"KEY", text), b"v")
        for number, command in enumerate(("LPUSH n v", "SADD n v", "ZADD n 1 v", "HSET n f v", "XADD n * f v")):
            raw.execute_command(*[f"kind {number}" if word == "n" else word for word in command.split()])
        before = set(raw.keys())
    async with ConnectorManager(store.url(options={"layout": layout})) as manager:
        connector = manager.create_connector()
        for key in ("a", "b", "c", "d"):
            with chunk(manager.local_cpu_backend, key, 4096) as obj:
                await connector.put(key, obj)
        listed = await connector.list()
        assert sorted(listed) == ["a", "b", "c", "d"]
        assert sorted([name async for name in connector.scan()]) == listed or set(listed) == {"a", "b", "c", "d"}
        assert await connector.batched_remove(["a", "b"]) == [True, True]
        assert await connector.batched_remove(await connector.list()) == [True, True]
        with chunk(manager.local_cpu_backend, "e", 4096) as obj:
            await connector.put("e", obj)
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.failed, found.is_complete) == (1, 1, 0, False)
        assert found.left_out >= 4
        assert await connector.list() == []
    with store.client() as raw:
        assert set(raw.keys()) == before
