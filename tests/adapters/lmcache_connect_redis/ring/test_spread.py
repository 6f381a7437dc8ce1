"""Chunks whose pieces lie on several servers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.errors import InvalidOptionError, StoreError
from lmcache_connect.oversight import clear
from lmcache_connect.record import (
    FIXED_HEADER_BYTES,
    chunk_names,
    chunk_of_piece,
    key_of_name,
    piece_names,
    spread_plan,
)
from lmcache_connect.testing import Direction, Fault, FaultKind
from lmcache_connect_redis.ring.connector import SPREAD_FROM

from ..chunks import chunk, holds, payload
from .rings import Servers, behind_proxies
from .second_question import SecondQuestion

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

MIB = 1 << 20
LARGE = 9 * MIB + 5
SMALL = 5000


@asynccontextmanager
async def connected(
    servers: Servers, backend: LocalCPUBackend, config: ConnectorConfig | None = None, **options: object
) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(
        servers.url(**options), local_cpu_backend=backend, config=config or ConnectorConfig(errors="raise")
    ) as manager:
        yield manager.create_connector()


@pytest_asyncio.fixture(params=["auto", "thread", "loop"])
async def connector(
    request: pytest.FixtureRequest, servers: Servers, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    async with connected(servers, backend, io=request.param, spread=3) as made:
        yield made


def pieces(servers: Servers) -> list[set[str]]:
    """The names of the pieces on each server."""
    return [{name for name in servers.names_on(at) if chunk_of_piece(name)} for at in range(3)]


def indexes(servers: Servers) -> set[str]:
    """The names of chunks, wherever they lie."""
    return {name for at in range(3) for name in servers.names_on(at) if key_of_name("", name)}


def is_current(servers: Servers, piece: str) -> bool:
    """Whether the index that stands now names a piece."""
    name = chunk_of_piece(piece)
    assert name is not None
    for server in servers.servers:
        with server.client() as client:
            if (record := client.get(name)) is not None:
                plan = spread_plan(record[:FIXED_HEADER_BYTES], name)
                return plan is not None and piece in piece_names(name, plan)
    return False


async def eventually(condition: Callable[[], bool], what: str) -> None:
    ends = time.monotonic() + 5
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.01)


async def put(
    connector: ManagedConnector, backend: LocalCPUBackend, key: str, nbytes: int = LARGE, content: str = ""
) -> None:
    with chunk(backend, content or key, nbytes) as obj:
        await connector.put(key, obj)


# -------------------------------------------------------------------------------------------------- both ways


async def test_a_large_chunk_lies_on_every_server_and_comes_back(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put(connector, backend, "a")
    assert [len(names) for names in pieces(servers)] == [1, 1, 1]
    assert indexes(servers) == set(chunk_names("", ["a"]))
    for _ in range(2):
        assert holds(await connector.get("a"), "a")
    assert await connector.exists("a")
    assert await connector.batched_exists(["none", "a"]) == [False, True]


async def test_long_pieces_are_striped_on_their_servers(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    for key in ("a", "b"):
        await put(connector, backend, key, 20 * MIB + 1)
    for _ in range(2):
        found = await connector.batched_get(["a", "b"])
        assert [holds(obj, key) for obj, key in zip(found, "ab", strict=True)] == [True] * 2
    assert await connector.batched_remove(["a", "b"]) == [True, True]
    assert not any(servers.names_on(at) for at in range(3))


async def test_memory_of_the_caller_is_sent_and_filled(connector: ManagedConnector, servers: Servers) -> None:
    source = payload("a", LARGE)
    assert await connector.put_from("a", source)
    assert [len(names) for names in pieces(servers)] == [1, 1, 1]
    halves = [bytearray(LARGE // 2), bytearray(LARGE - LARGE // 2)]  # which end inside a piece
    assert await connector.batched_get_into(["a", "none"], [halves, bytearray(LARGE)]) == [True, False]
    assert b"".join(halves) == source
    assert not await connector.get_into("a", bytearray(LARGE - 1))
    assert connector.statistics()["get_into"].misses == {"mismatch": 1}


async def test_a_batch_of_large_and_small_chunks_comes_back_in_its_order(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    sizes = [SMALL, LARGE, 5 * MIB, SPREAD_FROM, SMALL, SPREAD_FROM - 1, LARGE]
    keys = [f"k{number}" for number in range(len(sizes))]
    objs = [chunk(backend, key, size) for key, size in zip(keys, sizes, strict=True)]
    await connector.batched_put(keys, objs)
    for obj in objs:
        obj.ref_count_down()
    assert sum(map(len, pieces(servers))) == 3 * 3
    for _ in range(2):
        found = await connector.batched_get(["none", *keys])
        assert [obj is not None for obj in found] == [False, *[True] * len(keys)]
        assert [holds(obj, key) for obj, key in zip(found[1:], keys, strict=True)] == [True] * len(keys)


@pytest.mark.parametrize("option", [{}, {"spread": 2}, {"io": "loop", "checksum": "false"}])
async def test_any_connector_of_the_ring_reads_replaces_and_removes_what_is_spread(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers, option: dict[str, Any]
) -> None:
    await connector.put_from("a", payload("a", LARGE))
    async with connected(servers, backend, **option) as other:
        assert holds(await other.get("a"), "a")
        assert await other.remove("a")
        assert not any(servers.names_on(at) for at in range(3))
        await other.put_from("a", payload("b", LARGE))
        assert holds(await connector.get("a"), "b")


async def test_a_single_server_s_connector_takes_no_index_for_a_chunk_and_keeps_it(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await connector.put_from("a", payload("a", LARGE))
    host, port = servers.addresses[servers.index_of("a")]
    async with ConnectorManager(f"redis://{host}:{port}", local_cpu_backend=backend) as manager:
        single = manager.create_connector()
        assert await single.get("a") is None
        assert await single.batched_get_into(["a"], [bytearray(LARGE)]) == [False]
        assert single.statistics()["get"].misses == {"corrupt:spread": 1}
    assert holds(await connector.get("a"), "a")


async def test_a_ring_of_fewer_servers_misses_what_it_cannot_reach(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await connector.put_from("a", payload("a", LARGE))
    fewer = Servers([servers.servers[servers.index_of("a")]])
    async with connected(fewer, backend, config=ConnectorConfig()) as other:
        assert await other.get("a") is None
    assert holds(await connector.get("a"), "a")


# ------------------------------------------------------------------------------------------ what is left behind


async def test_removal_and_replacement_leave_nothing_behind(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    for key in ("a", "b"):
        await put(connector, backend, key)
    await put(connector, backend, "a", content="other")
    assert holds(await connector.get("a"), "other")
    await eventually(lambda: sum(map(len, pieces(servers))) == 6, "the replaced pieces are gone")
    assert await connector.batched_remove(["a", "none", "b"]) == [True, True, True]
    assert not any(servers.names_on(at) for at in range(3))
    assert not await connector.remove("a")


@pytest.mark.parametrize("io", ["auto", "loop"])
async def test_a_whole_chunk_that_replaces_a_spread_one_leaves_no_pieces(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers, io: str
) -> None:
    await put(connector, backend, "a")
    async with connected(servers, backend, io=io) as whole:
        await put(whole, backend, "a", content="other")
        assert holds(await connector.get("a"), "other")
        await eventually(lambda: not any(pieces(servers)), "the replaced pieces are gone")


@pytest.mark.parametrize("refused", ["persist", "getrange", "eval", "unlink"])
async def test_a_command_that_the_user_may_not_use_costs_no_chunk(
    servers: Servers, backend: LocalCPUBackend, refused: str
) -> None:
    for server in servers.servers:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "spread", "on", ">word", "~*", "+@all", f"-{refused}")
    url = servers.url(spread=3).replace("://", "://spread:word@")
    async with ConnectorManager(url, local_cpu_backend=backend, config=ConnectorConfig(errors="raise")) as manager:
        connector = manager.create_connector()
        for content in ("x", "y"):
            await put(connector, backend, "a", content=content)
            assert holds(await connector.get("a"), content)
        for at, server in enumerate(servers.servers):
            with server.client() as client:
                assert {client.pttl(name) for name in pieces(servers)[at] if is_current(servers, name)} == {-1}
        assert await connector.remove("a")
        assert await connector.get("a") is None


async def test_pieces_are_no_keys_and_are_cleared_with_them(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await put(connector, backend, "a")
    await put(connector, backend, "b", SMALL)
    assert sorted(await connector.list()) == ["a", "b"]
    assert [key async for key in connector.scan("a")] == ["a"]
    await put(connector, backend, "c")
    with servers.servers[servers.index_of("c")].client() as client:
        client.delete(chunk_names("", ["c"])[0])
    assert [key async for key in connector.scan_outdated("b")] == []
    assert len([key async for key in connector.scan_outdated("c")]) == 3  # which no index names
    await clear(connector, "")
    assert not any(servers.names_on(at) for at in range(3))


async def test_pieces_last_as_long_as_their_chunk(servers: Servers, backend: LocalCPUBackend) -> None:
    def lives(at: int) -> list[int]:
        with servers.servers[at].client() as client:
            return [client.pttl(name) for name in client.scan_iter()]

    async with connected(servers, backend, spread=3) as connector:
        await connector.put_from("a", payload("a", LARGE))
        assert {life for at in range(3) for life in lives(at)} == {-1}
    servers.flush()
    async with connected(servers, backend, spread=3, ttl=100) as connector:
        await connector.put_from("a", payload("a", LARGE))
        found = sorted(life for at in range(3) for life in lives(at))
        assert 0 < found[0] <= 100_000 < found[1] <= found[3] <= 160_000  # the index ends first


async def test_a_cancelled_put_leaves_nothing_behind_and_lets_go_of_its_memory(
    servers: Servers, backend: LocalCPUBackend
) -> None:
    with behind_proxies(servers) as (ring, proxies):
        async with connected(ring, backend, spread=3) as connector:
            proxies[(ring.index_of("a") + 1) % 3].arm(Fault(FaultKind.STALL, Direction.TO_SERVER, after_bytes=MIB))
            source = bytearray(payload("a", LARGE))
            task = asyncio.create_task(connector.put_from("a", source))
            await eventually(lambda: any(pieces(servers)), "a piece is stored")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            source.extend(b"x")  # nothing holds it
            for proxy in proxies:
                proxy.disarm()
            await eventually(lambda: not any(servers.names_on(at) for at in range(3)), "all is removed")


async def test_a_cancelled_get_lets_go_of_its_memory(servers: Servers, backend: LocalCPUBackend) -> None:
    with behind_proxies(servers) as (ring, proxies):
        async with connected(ring, backend, spread=3) as connector:
            await connector.put_from("a", payload("a", LARGE))
            proxies[(ring.index_of("a") + 1) % 3].arm(Fault(FaultKind.STALL, Direction.TO_CLIENT, after_bytes=MIB))
            target = bytearray(LARGE)
            task = asyncio.create_task(connector.get_into("a", target))
            await eventually(lambda: any(target), "a piece has come")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            target.extend(b"x")  # nothing holds it
            for proxy in proxies:
                proxy.disarm()
            assert holds(await connector.get("a"), "a")


# ------------------------------------------------------------------------------------------------ what goes wrong


async def test_a_missing_piece_is_a_miss_of_its_chunk_alone_and_the_index_goes(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    for key in ("a", "b"):
        await put(connector, backend, key)
    [name, *_] = [name for name in pieces(servers)[0] if chunk_of_piece(name) == chunk_names("", ["a"])[0]]
    with servers.servers[0].client() as client:
        client.delete(name)
    found = await connector.batched_get(["a", "b"])
    assert found[0] is None
    assert holds(found[1], "b")
    assert not await connector.exists("a")  # so that an engine puts it again
    await eventually(lambda: sum(map(len, pieces(servers))) == 3, "the other pieces are gone")
    await put(connector, backend, "a")
    assert holds(await connector.get("a"), "a")


async def test_a_damaged_piece_is_a_miss_of_its_chunk_alone(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    for key in ("a", "b"):
        await connector.put_from(key, payload(key, LARGE))
    [name, *_] = [name for name in pieces(servers)[1] if chunk_of_piece(name) == chunk_names("", ["a"])[0]]
    with servers.servers[1].client() as client:
        client.setrange(name, 5000, b"damage")
    targets = [bytearray(LARGE), bytearray(LARGE)]
    assert await connector.batched_get_into(["a", "b"], targets) == [False, True]
    assert targets[1] == payload("b", LARGE)
    assert connector.statistics()["batched_get_into"].misses == {"corrupt:checksum": 1}
    assert await connector.batched_exists(["a", "b"]) == [False, True]


async def test_a_piece_of_another_put_or_place_never_verifies(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await connector.put_from("b", payload("b", LARGE))
    others = pieces(servers)
    await connector.put_from("a", payload("a", LARGE))
    mine = [names - known for names, known in zip(pieces(servers), others, strict=True)]
    for at in range(3):
        [own], [other] = mine[at], others[at]
        with servers.servers[at].client() as client:
            client.set(own, client.get(other))
    assert await connector.batched_get(["a"]) == [None]
    assert connector.statistics()["batched_get"].misses == {"corrupt:key": 1}
    assert await connector.exists("a")  # it may be another program's


async def test_a_damaged_index_is_a_miss(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    await connector.put_from("a", payload("a", LARGE))
    with servers.servers[servers.index_of("a")].client() as client:
        client.setrange(chunk_names("", ["a"])[0], 34, b"\0\1")
    assert await connector.batched_get(["a"]) == [None]
    assert connector.statistics()["batched_get"].misses == {"corrupt:header": 1}
    assert not await connector.exists("a")


async def test_of_two_puts_at_once_a_get_gives_one_whole(
    connector: ManagedConnector, backend: LocalCPUBackend, servers: Servers
) -> None:
    contents = {bytes(payload(name, LARGE)) for name in ("x", "y")}

    async def write(name: str) -> None:
        for _ in range(6):
            await connector.put_from("a", payload(name, LARGE))

    async def read(job: asyncio.Future[Any]) -> int:
        hits = 0
        target = bytearray(LARGE)
        while not job.done():
            if await connector.get_into("a", target):
                hits += 1
                assert bytes(target) in contents
        return hits

    await connector.put_from("a", payload("x", LARGE))
    writers = asyncio.gather(write("x"), write("y"))
    assert all(await asyncio.gather(read(writers), read(writers)))
    await writers
    assert await connector.get_into("a", bytearray(LARGE))
    await eventually(lambda: sum(map(len, pieces(servers))) == 3, "the replaced pieces are gone")


@pytest.mark.parametrize("errors", ["raise", "miss"])
async def test_a_killed_server_costs_spread_chunks_and_its_own_and_nothing_else(
    servers: Servers, backend: LocalCPUBackend, errors: str
) -> None:
    config = ConnectorConfig.load(errors=errors, operation_timeout=5, retries=0)
    dead = (servers.index_of("a") + 1) % 3
    lone = servers.keys_on(servers.index_of("a"), 2, "small")
    async with connected(servers, backend, config=config, spread=3) as connector:
        await put(connector, backend, "a")
        for key in lone:
            await put(connector, backend, key, SMALL)
        servers.servers[dead].kill()
        targets = [bytearray(SMALL), bytearray(LARGE), bytearray(SMALL)]
        get: Awaitable[list[bool]] = connector.batched_get_into([lone[0], "a", lone[1]], targets)
        if errors == "raise":
            with pytest.raises(StoreError):
                await get
            with pytest.raises(StoreError):
                await connector.get("a")
            with pytest.raises(StoreError):
                await put(connector, backend, "a")
        else:
            assert await get == [True, False, True]
            assert await connector.get("a") is None
            await put(connector, backend, "a")
        assert [holds(obj, key) for obj, key in zip(await connector.batched_get(lone), lone, strict=True)] == [True] * 2
    servers.servers[dead].restart()


@pytest.mark.parametrize("hangs", [False, True], ids=["dies", "hangs"])
async def test_a_server_that_fails_when_it_is_asked_for_an_index_again_costs_that_chunk_alone(
    servers: Servers, backend: LocalCPUBackend, hangs: bool
) -> None:
    config = ConnectorConfig.load(errors="miss", operation_timeout=2, retries=0, stall_timeout=1)
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(SecondQuestion(server, hangs=hangs)) for server in servers.servers]
        ring = Servers(servers.servers, proxies)
        keys = ["a", *(key for at in range(3) for key in ring.keys_on(at, 2, "small"))]
        async with connected(ring, backend, config=config, spread=2) as connector:
            await put(connector, backend, "a")
            for key in keys[1:]:
                await put(connector, backend, key, SMALL)
            own = ring.index_of("a")
            for at in {0, 1, 2} - {own}:
                with servers.servers[at].client() as client:
                    for name in pieces(servers)[at]:
                        client.delete(name)
            proxies[own].name = chunk_names("", ["a"])[0].encode() + b"\r\n"
            found = await connector.batched_get(keys)
            assert proxies[own].questions == 2
            assert found[0] is None
            assert [holds(obj, key) for obj, key in zip(found[1:], keys[1:], strict=True)] == [True] * 6


async def test_large_chunks_that_do_not_fit_together_come_one_after_the_other(servers: Servers) -> None:
    with LocalCPUBackend(30 * MIB) as small:
        async with connected(servers, small, spread=3) as connector:
            keys = [f"k{number}" for number in range(4)]
            for key in keys:
                await connector.put_from(key, payload(key, LARGE))

            async def get(key: str) -> bool:
                return holds(await connector.get(key), key)

            assert await asyncio.gather(*map(get, keys * 2)) == [True] * 8
            found = await connector.batched_get(keys)
            assert [obj is not None for obj in found] == [True, True, True, False]  # the prefix that fits
            assert all(holds(obj, key) for obj, key in zip(found[:3], keys, strict=False))
        assert small.statistics().reserved == 0


async def test_more_servers_than_there_are_are_refused(servers: Servers, backend: LocalCPUBackend) -> None:
    for options in ({"spread": 4}, {"spread": 0}, {"spread": 2, "layout": "lmcache"}):
        with pytest.raises(InvalidOptionError, match="spread"):
            async with connected(servers, backend, **options):
                pass
