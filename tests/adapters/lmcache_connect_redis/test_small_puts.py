"""Small chunks of one batch, which are sent several at a time: each is stored, or refused, by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    MemoryObj,
)
from lmcache_connect.errors import StoreCommandError, StoreFullError, StoreProtocolError, ValueTooLargeError
from lmcache_connect.memory import release_all
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ClusterServers, ValkeyServer
from lmcache_connect_redis.layouts.framed.record_writer import RecordWriter
from lmcache_connect_redis.layouts.framed.storing import put_requests
from lmcache_connect_redis.options import RedisOptions

from .chunks import chunk, holds
from .cluster_load import keys_in
from .scripted_server import ScriptedServer

STRICT: Final = ConnectorConfig.load(operation_timeout=5, retries=0, breaker_failures=100, max_local_cpu_bytes=64 << 20)
KIB: Final = 1 << 10


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(64 << 20, warm_ahead=0) as made:
        yield made
        assert made.statistics().reserved == 0


def chunks(backend: LocalCPUBackend, keys: Sequence[str], nbytes: int) -> list[MemoryObj]:
    return [chunk(backend, key, nbytes) for key in keys]


# -------------------------------------------------------------------------------------------------- what goes together


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([128 * KIB] * 9, [(0, 512), (4, 512), (8, 128)]),
        ([4 * KIB] * 70, [(0, 128), (32, 128), (64, 24)]),
        ([200 * KIB, 300 * KIB, 200 * KIB, 1, 1], [(0, 200), (1, 300), (2, 200)]),
        ([1024 * KIB, 4 * KIB, 4 * KIB, 1024 * KIB], [(0, 1024), (1, 8), (3, 1024)]),
        ([4 * KIB], [(0, 4)]),
        ([], []),
    ],
)
def test_small_chunks_that_follow_one_another_go_together_up_to_half_a_mebibyte(
    backend: LocalCPUBackend, sizes: list[int], expected: list[tuple[int, int]]
) -> None:
    writer = RecordWriter("store", RedisOptions())
    objs = [chunk(backend, "k", nbytes) for nbytes in sizes]
    names = [f"n{number}" for number in range(len(sizes))]
    requests = put_requests(writer, names, objs, 1 << 20, each_alone=False)
    assert [(request.slot, request.nbytes // KIB) for request in requests] == expected
    each = put_requests(writer, names, objs, 1 << 20, each_alone=True)
    assert [request.slot for request in each] == list(range(len(sizes)))
    release_all(objs)


def test_a_chunk_in_pieces_goes_alone_however_small_it_is(backend: LocalCPUBackend) -> None:
    writer = RecordWriter("store", RedisOptions())
    objs = [chunk(backend, "k", nbytes) for nbytes in (KIB, 300 * KIB, 64 * KIB, KIB)]
    requests = put_requests(writer, ["a", "b", "c", "d"], objs, 65_536, each_alone=False)
    assert [request.slot for request in requests] == [0, *[1] * 5, 2]
    release_all(objs)


def test_a_chunk_that_fits_no_value_is_named_before_anything_is_sent(backend: LocalCPUBackend) -> None:
    writer = RecordWriter("store", RedisOptions(max_value_bytes=8 * KIB))
    objs = chunks(backend, ["a", "b"], 4 * KIB)
    objs.append(chunk(backend, "c", 9 * KIB))
    with pytest.raises(ValueTooLargeError):
        put_requests(writer, ["a", "b", "c"], objs, 0, each_alone=False)
    release_all(objs)


# --------------------------------------------------------------------------------------------------- real servers


@pytest.mark.asyncio
@pytest.mark.parametrize("io", ["loop", "thread"])
@pytest.mark.parametrize("checksum", ["true", "false"])
async def test_every_small_chunk_comes_back_as_it_was_put_and_expires(
    backend: LocalCPUBackend, valkey_server: ValkeyServer, io: str, checksum: str
) -> None:
    keys = [f"small-{number}" for number in range(100)]
    url = f"{valkey_server.url('redis')}?io={io}&checksum={checksum}&ttl=100&prefix=small-puts"
    async with ConnectorManager(url, None, backend, config=STRICT) as manager:
        connector = manager.create_connector()
        objs = [chunk(backend, key, 1 + 997 * number) for number, key in enumerate(keys)]
        await connector.batched_put(keys, objs)
        release_all(objs)
        got = await connector.batched_get(keys)
        assert [holds(obj, key) for key, obj in zip(keys, got, strict=True)] == [True] * 100
        facts = await connector.describe(keys, records=True)
        assert all(fact is not None and fact.ttl is not None and 90 < fact.ttl <= 100 for fact in facts)


@pytest.mark.asyncio
@pytest.mark.parametrize("io", ["loop", "thread"])
async def test_a_key_that_the_user_may_not_write_costs_none_of_those_beside_it(
    backend: LocalCPUBackend, io: str
) -> None:
    with ValkeyServer() as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "half", "on", ">pw", "~*good*", "+@all")
        url = f"redis://half:pw@{server.host}:{server.port}?io={io}"
        async with ConnectorManager(url, None, backend, config=STRICT) as manager:
            connector = manager.create_connector()
            keys = ["good-1", "bad-1", "good-2", "good-3", "bad-2", "good-4"]
            objs = chunks(backend, keys, 50 * KIB)
            with pytest.raises(AuthenticationError):
                await connector.batched_put(keys, objs)
            good = [key for key in keys if key.startswith("good")]
            got = await connector.batched_get(good)
            assert [holds(obj, key) for key, obj in zip(good, got, strict=True)] == [True] * 4
            await connector.batched_put(good, [obj for key, obj in zip(keys, objs, strict=True) if key in good])
            release_all(objs)
        with server.client() as client:
            assert client.info("stats")["total_connections_received"] <= 6  # none was closed because of a refusal


@pytest.mark.asyncio
async def test_chunks_whose_slots_have_moved_go_to_their_new_node_and_the_others_once(
    backend: LocalCPUBackend,
) -> None:
    with ClusterServers(replicas_each=0) as cluster:
        async with ConnectorManager(cluster.url(), None, backend, config=STRICT) as manager:
            connector = manager.create_connector()
            assert not await connector.exists("k")  # it knows now who has which slot
            source = await asyncio.to_thread(cluster.owner_of, 100)
            target = next(one for one in await asyncio.to_thread(cluster.primaries) if one is not source)
            await asyncio.to_thread(cluster.move_slots, [100], target)
            keys = [key for pair in zip(keys_in(100, 8), keys_in(101, 8), strict=True) for key in pair]
            objs = chunks(backend, keys, 2 * KIB)
            await connector.batched_put(keys, objs)
            release_all(objs)
            got = await connector.batched_get(keys)
            assert [holds(obj, key) for key, obj in zip(keys, got, strict=True)] == [True] * 16
        with target.client() as client:
            assert client.exists(*chunk_names("", [keys[0]])) == 1


# ------------------------------------------------------------------------------------------------ what servers answer


@pytest.mark.asyncio
@pytest.mark.parametrize("io", ["loop", "thread"])
@pytest.mark.parametrize(
    ("answer", "expected", "is_closed"),
    [
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", StoreFullError, False),
        (b"-X\r\n", StoreCommandError, False),
        (b"-\r\n", StoreCommandError, False),
        (b"+QUEUED\r\n", StoreProtocolError, True),
        (b":1\r\n", StoreProtocolError, True),
        (b"+O\r\n", StoreProtocolError, True),
    ],
)
async def test_another_answer_amid_those_of_a_group_is_an_error_and_shifts_no_later_one(
    backend: LocalCPUBackend, io: str, answer: bytes, expected: type[Exception], is_closed: bool
) -> None:
    def answered(command: list[bytes]) -> bytes:
        return answer if b"bad" in command[1] else b"+OK\r\n"

    async with (
        ScriptedServer({b"SET": answered}) as server,
        ConnectorManager(f"{server.url}?io={io}", None, backend, config=STRICT) as manager,
    ):
        connector = manager.create_connector()
        keys = ["k1", "k2", "bad", "k3", "k4"]
        objs = chunks(backend, keys, 3 * KIB)
        with pytest.raises(expected):
            await connector.batched_put(keys, objs)
        before = server.connections
        await connector.batched_put(keys[:2], objs[:2])
        assert (server.connections > before) is is_closed
        release_all(objs)
