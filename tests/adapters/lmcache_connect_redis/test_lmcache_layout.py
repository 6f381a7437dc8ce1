"""`?layout=lmcache`: one store for LMCache's own Redis connector and for this one, both ways."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import pytest_asyncio

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LMCacheConnectError,
    LocalCPUBackend,
    ManagedConnector,
    MemoryFormat,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import (
    InvalidOptionError,
    InvalidShapeError,
    StoreFullError,
    StoreProtocolError,
    UnknownDtypeError,
    ValueTooLargeError,
)
from lmcache_connect.keys import parse_key
from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy, ValkeyServer

from .chunks import chunk, holds, payload
from .real_lmcache import TO_RECORD, RealLMCache, Stored, record, recorded
from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(operation_timeout=2, retries=0, breaker_failures=100, max_local_cpu_bytes=16 << 20)
RECORDED = [pytest.param(stored, id=stored.key.partition("@")[2]) for stored in recorded()]
SIZE = 64
MIB = 1 << 20
HALF = struct.pack("<7i", 2 * SIZE, 1, 2, 2, 2, 4, 4)
"""The metadata of a chunk of (2, 2, 4, 4) halves: 128 bytes."""


@pytest.fixture
def url(valkey_url: str) -> str:
    return f"{valkey_url}?layout=lmcache"


@pytest_asyncio.fixture
async def connector(url: str, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[ManagedConnector]:
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend, config=QUICK) as manager:
        yield manager.create_connector()


def store(server: ValkeyServer, key: str, metadata: bytes | None, payload: bytes | None) -> None:
    """Puts the halves of a record into the store, past any connector."""
    with server.client() as client:
        for suffix, half in (("metadata", metadata), ("kv_bytes", payload)):
            if half is None:
                client.delete(key + suffix)
            else:
                client.set(key + suffix, half)


def stored_halves(server: ValkeyServer, key: str) -> tuple[bytes | None, bytes | None]:
    with server.client() as client:
        metadata, payload = client.mget(key + "metadata", key + "kv_bytes")
        return metadata, payload


def corrupt_reads(connector: ManagedConnector, operation: str = "get") -> dict[str, int]:
    misses = connector.statistics()[operation].misses
    return {reason: count for reason, count in misses.items() if reason.startswith("corrupt")}


# -------------------------------------------------------------------------------------------- recorded bytes


@pytest.mark.parametrize("stored", RECORDED)
async def test_what_lmcache_stored_is_read_with_its_shapes_dtypes_format_and_bytes(
    connector: ManagedConnector, valkey_server: ValkeyServer, stored: Stored
) -> None:
    store(valkey_server, stored.key, bytes.fromhex(stored.metadata), bytes.fromhex(stored.payload))
    key = parse_key(stored.key)
    assert key.to_string() == stored.key
    assert await connector.exists(key)
    assert await connector.list() == [stored.key]
    found = await connector.get(key)
    assert found is not None
    with found:
        assert found.metadata == stored.chunk()
        assert bytes(found.byte_array) == bytes.fromhex(stored.payload)


@pytest.mark.parametrize("stored", RECORDED)
async def test_what_is_put_stands_in_the_store_as_lmcache_writes_it_byte_by_byte(
    connector: ManagedConnector, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend, stored: Stored
) -> None:
    metadata = stored.chunk()
    with await local_cpu_backend.allocate_async(list(metadata.shapes), list(metadata.dtypes), metadata.fmt) as obj:
        obj.byte_array[:] = bytes.fromhex(stored.payload)
        await connector.put(parse_key(stored.key), obj)
    assert stored_halves(valkey_server, stored.key) == (bytes.fromhex(stored.metadata), bytes.fromhex(stored.payload))
    with valkey_server.client() as client:
        assert client.dbsize() == 2


# ------------------------------------------------------------------------------------------ LMCache itself


@pytest.fixture
def _lmcache() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("lmcache", reason="LMCache is not installed")


@pytest.mark.lmcache
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_lmcache", "valkey_url")
async def test_the_recording_is_what_lmcache_stores(valkey_server: ValkeyServer) -> None:
    assert await record(valkey_server) == recorded()


@pytest.mark.lmcache
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_lmcache")
@pytest.mark.parametrize("stored", RECORDED)
async def test_lmcache_reads_what_is_put_here_and_here_is_read_what_lmcache_puts(
    connector: ManagedConnector, valkey_url: str, local_cpu_backend: LocalCPUBackend, stored: Stored
) -> None:
    metadata = stored.chunk()
    payload = bytes.fromhex(stored.payload)
    async with RealLMCache(valkey_url, len(stored.shapes)) as lmcache:
        with await local_cpu_backend.allocate_async(list(metadata.shapes), list(metadata.dtypes), metadata.fmt) as obj:
            obj.byte_array[:] = payload
            await connector.put(stored.key, obj)
        assert await lmcache.exists(stored.key)
        assert await lmcache.get(stored.key) == (stored.shapes, stored.dtypes, stored.fmt, payload)
        assert await connector.remove(stored.key)
        assert not await lmcache.exists(stored.key)
        assert await lmcache.get(stored.key) is None
        await lmcache.put(stored)
        assert await connector.batched_exists([stored.key, "other"]) == [True, False]
        found = await connector.get(stored.key)
        assert found is not None
        with found:
            assert found.metadata == metadata
            assert bytes(found.byte_array) == payload


# ----------------------------------------------------------------------------------------- halves that do not fit


@pytest.mark.parametrize("missing", ["metadata", "payload"])
async def test_a_half_alone_is_a_plain_miss_in_every_look_up_and_stays(
    connector: ManagedConnector, valkey_server: ValkeyServer, missing: str
) -> None:
    half = (None, b"p" * 128) if missing == "metadata" else (HALF, None)
    store(valkey_server, "k", *half)
    store(valkey_server, "whole", HALF, b"w" * 128)
    assert await connector.get("k") is None
    assert await connector.exists("k") is False
    assert await connector.batched_exists(["whole", "k", "whole"]) == [True, False, True]
    assert await connector.batched_async_contains("lookup", ["whole", "k", "whole"]) == 1
    found = await connector.batched_get(["k", "whole", "k"])
    assert [obj is not None for obj in found] == [False, True, False]
    assert found[1] is not None
    found[1].ref_count_down()
    assert corrupt_reads(connector) == corrupt_reads(connector, "batched_get") == {}
    assert stored_halves(valkey_server, "k") == half
    assert sorted(await connector.list()) == (["whole"] if missing == "metadata" else ["k", "whole"])
    assert await connector.remove("k") is False
    assert stored_halves(valkey_server, "k") == (None, None)


@pytest.mark.parametrize(
    ("metadata", "payload", "reason"),
    [
        (HALF, b"p" * 127, "length"),
        (HALF, b"p" * 129, "length"),
        (HALF, b"", "length"),
        (struct.pack("<7i", 128, 1, 2, 2, 2, 4, 5), b"p" * 128, "length"),
        (struct.pack("<7i", 128, 1, 4, 2, 2, 4, 4), b"p" * 128, "length"),
        (struct.pack("<12i", 128, 1, 2, 2, 2, 4, 4, 2, 2, 2, 4, 4), b"p" * 128, "length"),
        (struct.pack("<7i", 128, 1, 6, 2**31 - 1, 512, 1, 1), b"p" * 128, "length"),
        (struct.pack("<7i", 128, 1, 6, 1 << 20, 1 << 20, 1, 1), b"p" * 128, "length"),
        (struct.pack("<7i", 128, 1, 5, *[2**31 - 1] * 4), b"p" * 128, "metadata"),
        (struct.pack("<7i", 128, 1, 2, -2, -2, 4, 4), b"p" * 128, "metadata"),
        (struct.pack("<7i", 128, 1, 2, 0, 2, 4, 4), b"p" * 128, "metadata"),
        (struct.pack("<7i", 128, 1, 2, 0, 0, 0, 0), b"p" * 128, "metadata"),
        (struct.pack("<7i", -1, 1, 2, 2, 2, 4, 4), b"p" * 128, "length"),
        (b"", b"p" * 128, "metadata"),
        (HALF[:-1], b"p" * 128, "metadata"),
        (HALF + b"\0", b"p" * 128, "metadata"),
        (HALF[:8], b"p" * 128, "metadata"),
        (b"\xff" * 28, b"p" * 128, "length"),
        (b"{}", b"p" * 128, "metadata"),
        (HALF * 1000, b"p" * 128, "metadata"),
        (bytes(8 + 20 * 65), b"", "metadata"),
        (b"x" * (2 << 20), b"p" * 128, "metadata"),
    ],
    ids=lambda value: f"{value[:16].hex()}-{len(value)}" if isinstance(value, bytes) else value,
)
async def test_halves_that_do_not_fit_are_counted_never_allocated_for_and_never_removed(
    connector: ManagedConnector,
    valkey_server: ValkeyServer,
    local_cpu_backend: LocalCPUBackend,
    metadata: bytes,
    payload: bytes,
    reason: str,
) -> None:
    for operation in ("get", "batched_get"):
        store(valkey_server, "k", metadata, payload)
        found = await connector.get("k") if operation == "get" else (await connector.batched_get(["k"]))[0]
        assert found is None
        assert corrupt_reads(connector, operation) == {f"corrupt:{reason}": 1}
        assert stored_halves(valkey_server, "k") == (metadata, payload)
    assert local_cpu_backend.statistics().allocations == 0
    # The connection stands where the next reply starts.
    store(valkey_server, "k", HALF, b"w" * 128)
    found = await connector.get("k")
    assert found is not None
    with found:
        assert bytes(found.byte_array) == b"w" * 128


@pytest.mark.parametrize("metadata", [struct.pack("<7i", 128, 9, *[2] * 5), struct.pack("<7i", 128, 1, 9, *[2] * 4)])
async def test_a_format_or_a_dtype_of_a_newer_release_is_a_miss_that_stays(
    connector: ManagedConnector, valkey_server: ValkeyServer, metadata: bytes
) -> None:
    store(valkey_server, "k", metadata, b"p" * 128)
    assert await connector.get("k") is None
    assert corrupt_reads(connector) == {"corrupt:version": 1}
    assert stored_halves(valkey_server, "k") == (metadata, b"p" * 128)


async def test_a_put_that_replaces_a_chunk_of_another_size_is_never_seen_by_halves(
    connector: ManagedConnector, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    """The server answers every read between the two writes of somebody who writes them one after the other."""
    store(valkey_server, "k", HALF, b"o" * 128)
    with valkey_server.client() as client:
        client.set("kkv_bytes", b"n" * 64)  # the new payload, and not yet its metadata
        assert await connector.get("k") is None
        client.set("kmetadata", struct.pack("<7i", 64, 1, 2, 2, 1, 4, 4))
        assert client.get("kkv_bytes") == b"n" * 64  # nothing of it was removed: the writer was in the middle
    found = await connector.get("k")
    assert found is not None
    with found:
        assert bytes(found.byte_array) == b"n" * 64
    with chunk(local_cpu_backend, "k", SIZE) as obj:
        await connector.put("k", obj)
    assert holds(await connector.get("k"), "k")


async def test_readers_never_see_the_halves_of_two_writers_of_chunks_of_one_size(
    url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    kinds = {"half": b"h" * 65_536, "bfloat16": b"b" * 65_536}
    writing = len(kinds)
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend, config=QUICK) as manager:

        async def write(dtype: str, payload: bytes) -> None:
            nonlocal writing
            connector = manager.create_connector()
            with await local_cpu_backend.allocate_async((2, 2, 64, 128), dtype) as obj:
                obj.byte_array[:] = payload
                for _ in range(30):
                    await connector.put("k", obj)
            writing -= 1

        async def read() -> None:
            connector = manager.create_connector()
            while writing:
                obj = await connector.get("k")
                if obj is not None:
                    with obj:
                        assert bytes(obj.byte_array) == kinds[obj.get_dtypes()[0].name]
            assert corrupt_reads(connector) == {}

        async with asyncio.TaskGroup() as group:
            for dtype, payload in kinds.items():
                group.create_task(write(dtype, payload))
                group.create_task(read())


# ------------------------------------------------------------------------------------------- servers that lie


@pytest.mark.parametrize(
    "answer",
    [
        b"*2\r\n$28\r\n" + HALF + b"\r\n$1099511627776\r\nxx",
        b"*2\r\n$1099511627776\r\nxx",
        b"*2\r\n$28\r\n" + HALF + b"\r\n$-2\r\n",
        b"*2\r\n$28\r\n" + HALF + b"\r\n-ERR in the middle\r\n",
        b"*2\r\n$-1\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"*2\r\n:5\r\n:5\r\n",
        b"*1\r\n$-1\r\n",
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"*-1\r\n",
        b"*99999999999999999999\r\n",
        b"$-1\r\n",
        b"+OK\r\n",
    ],
)
async def test_an_answer_that_breaks_the_protocol_is_an_error_and_never_an_allocation(answer: bytes) -> None:
    async with (
        ScriptedServer({b"MGET": answer}) as server,
        ConnectorManager(f"{server.url}?layout=lmcache", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with pytest.raises((StoreProtocolError, StoreUnavailableError)):
            await connector.get("k")
        assert manager.local_cpu_backend.statistics().allocations == 0
        server.answers[b"MGET"] = lambda command: b"*%d\r\n" % (len(command) - 1) + b"$-1\r\n" * (len(command) - 1)
        assert await connector.get("k") is None
        assert server.connections == 2


def reply(command: list[bytes]) -> bytes:
    """The answer to a request for a chunk."""
    [*copies, name] = command[1:]
    data = payload(name.decode().removesuffix("kv_bytes"), 128)
    return b"*%d\r\n%b$128\r\n%b\r\n" % (len(copies) + 1, b"$28\r\n%b\r\n" % HALF * len(copies), data)


@pytest.mark.parametrize("kind", ["one too many", "two too many", "one too few"])
@pytest.mark.parametrize("pool_size", [1, 2])
async def test_a_reply_that_nobody_asked_for_gives_no_call_the_chunk_of_another(kind: str, pool_size: int) -> None:
    many = {"one too many": 2, "two too many": 3, "one too few": 0}[kind]
    asked = 0

    def answer(command: list[bytes]) -> bytes:
        nonlocal asked
        asked += 1
        return reply(command) * (many if asked == 3 else 1)

    async with (
        ScriptedServer({b"MGET": answer}) as server,
        ConnectorManager(f"{server.url}?layout=lmcache&pool_size={pool_size}", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        keys = [f"k{number}" for number in range(12)]
        answers = await asyncio.gather(*map(connector.get, keys), return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        for key, found in zip(keys, answers, strict=True):
            assert isinstance(found, BaseException) or holds(found, key)
        # The call that noticed it, and no other. Of two connections, the third request may be the last one of its own.
        assert [type(error) for error in failed] in [[StoreProtocolError], *([[]] if pool_size > 1 else [])]
        for key in keys:
            assert holds(await connector.get(key), key)


async def test_three_replies_too_many_are_noticed_only_when_the_connection_is_released() -> None:
    asked = 0

    def answer(command: list[bytes]) -> bytes:
        nonlocal asked
        asked += 1
        if asked != 3:
            return reply(command)
        copies = len(command) - 2
        return reply(command) + b"".join(reply(again(1 + (copies + turn) % 3)) for turn in range(3))

    def again(copies: int) -> list[bytes]:
        return [b"MGET", *[b"othermetadata"] * copies, b"otherkv_bytes"]

    async with (
        ScriptedServer({b"MGET": answer}) as server,
        ConnectorManager(f"{server.url}?layout=lmcache&pool_size=1", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        keys = [f"k{number}" for number in range(12)]
        answers = await asyncio.gather(*map(connector.get, keys))
        wrong = [key for key, found in zip(keys, answers, strict=True) if not holds(found, key)]
        assert wrong  # LMCache's records hold no key
        for key in keys:
            assert holds(await connector.get(key), key)


async def test_a_payload_that_does_not_end_where_it_said_is_an_error_and_gives_its_memory_back() -> None:
    answer = b"*2\r\n$28\r\n%b\r\n$128\r\n%b" % (HALF, b"p" * 140)
    async with (
        ScriptedServer({b"MGET": answer}) as server,
        ConnectorManager(f"{server.url}?layout=lmcache", config=QUICK) as manager,
    ):
        with pytest.raises(StoreProtocolError, match="a value ends with b'pp'"):
            await manager.create_connector().get("k")
        assert manager.local_cpu_backend.statistics().reserved == 0


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            {b"SET": b"-OOM command not allowed\r\n", b"EXEC": b"-EXECABORT Transaction discarded\r\n"},
            StoreFullError,
        ),
        (
            {b"MULTI": b"-NOPERM no\r\n", b"SET": b"+OK\r\n", b"EXEC": b"-ERR EXEC without MULTI\r\n"},
            AuthenticationError,
        ),
        (dict.fromkeys((b"MULTI", b"SET", b"EXEC"), b"-BUSY a script runs\r\n"), StoreUnavailableError),
        ({b"EXEC": b"*2\r\n+OK\r\n-OOM late\r\n"}, StoreFullError),
        ({b"EXEC": b"*2\r\n-OOM late\r\n+OK\r\n"}, StoreFullError),
    ],
)
async def test_a_transaction_that_is_refused_raises_its_first_error_and_keeps_the_connection(
    answers: dict[bytes, bytes], expected: type[StoreError]
) -> None:
    good = {b"MULTI": b"+OK\r\n", b"SET": b"+QUEUED\r\n", b"EXEC": b"*2\r\n+OK\r\n+OK\r\n"}
    async with (
        ScriptedServer(dict(good)) as server,
        ConnectorManager(f"{server.url}?layout=lmcache", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
            server.answers.update(answers)
            with pytest.raises(expected):
                await connector.put("k", obj)
            server.answers.update(good)
            await connector.put("k", obj)
        assert server.connections == 1
        names = [command[0] for command in server.commands[-4:]]
        assert names == [b"MULTI", b"SET", b"SET", b"EXEC"]
        assert [command[1] for command in server.commands[-3:-1]] == [b"kkv_bytes", b"kmetadata"]


@pytest.mark.parametrize("answer", [b"*1\r\n+OK\r\n", b"*-1\r\n", b"+OK\r\n", b":2\r\n"])
async def test_a_transaction_with_other_replies_than_two_is_an_error(answer: bytes) -> None:
    async with (
        ScriptedServer({b"SET": b"+QUEUED\r\n", b"EXEC": answer}) as server,
        ConnectorManager(f"{server.url}?layout=lmcache", config=QUICK) as manager,
    ):
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            with pytest.raises(StoreProtocolError):
                await manager.create_connector().put("k", obj)


# ------------------------------------------------------------------------------------------------- whole puts


async def test_a_put_that_a_full_server_refuses_leaves_neither_half() -> None:
    with ValkeyServer(maxmemory="8mb", config={"maxmemory-policy": "noeviction"}) as server:
        async with ConnectorManager(f"{server.url()}?layout=lmcache", config=QUICK) as manager:
            connector = manager.create_connector()
            names = [f"k-{index}" for index in range(8)]
            with chunk(manager.local_cpu_backend, "k", 2 << 20) as obj:
                with pytest.raises(StoreFullError, match="maxmemory"):
                    for name in names:
                        await connector.put(name, obj)
            stored = await connector.list()
            assert 0 < len(stored) < 8
            with server.client() as client:
                assert client.dbsize() == 2 * len(stored)


@pytest.fixture
def proxy(valkey_server: ValkeyServer) -> Iterator[FaultProxy]:
    with FaultProxy(valkey_server.host, valkey_server.port) as running:
        yield running


# MULTI has 15 bytes, both SETs 41 and 64 besides the payload, and EXEC 14.
@pytest.mark.parametrize("after", [0, 10, 40, MIB // 2, MIB + 54, MIB + 55, MIB + 100, MIB + 118, MIB + 131])
async def test_a_put_whose_connection_is_lost_leaves_the_chunk_that_was_there(
    connector: ManagedConnector,
    local_cpu_backend: LocalCPUBackend,
    valkey_server: ValkeyServer,
    proxy: FaultProxy,
    after: int,
) -> None:
    store(valkey_server, "k", HALF, b"o" * 128)
    through = f"redis://{proxy.host}:{proxy.port}?layout=lmcache"
    async with ConnectorManager(through, local_cpu_backend=local_cpu_backend, config=QUICK) as manager:
        writer = manager.create_connector()
        with chunk(local_cpu_backend, "k", MIB) as obj:
            await writer.put("other", obj)  # over the connection that the next put has
            proxy.arm(Fault(FaultKind.TRUNCATE_AND_CLOSE, Direction.TO_SERVER, after_bytes=after, count=1))
            with pytest.raises(StoreUnavailableError):
                await writer.put("k", obj)
            found = await connector.get("k")
            assert found is not None
            with found:
                assert bytes(found.byte_array) == b"o" * 128
            await writer.put("k", obj)
    assert holds(await connector.get("k"), "k")


async def test_a_ttl_is_set_on_both_halves(valkey_server: ValkeyServer, url: str) -> None:
    async with ConnectorManager(f"{url}&ttl=90.5", config=QUICK) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
            await connector.batched_put(["l"], [obj])
    with valkey_server.client() as client:
        for key in ("kmetadata", "kkv_bytes", "lmetadata", "lkv_bytes"):
            assert 80_000 < client.pttl(key) <= 90_500


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "says"),
    [
        ((2, 2, 4, 4), "int8", UnknownDtypeError, "expected one of bfloat16"),
        ((2, 2, 4, 4), "fp8_e4m3fnuz", UnknownDtypeError, "fp8_e4m3fn"),
        ((1, 2, 2, 4, 4), "half", InvalidShapeError, "5 dimensions; LMCache's records hold at most 4"),
        ((1 << 20,), "uint8", ValueTooLargeError, "exceeds the limit of 1000000 bytes"),
    ],
)
async def test_a_chunk_that_lmcache_could_not_describe_is_refused_before_a_byte_is_sent(
    valkey_server: ValkeyServer,
    url: str,
    local_cpu_backend: LocalCPUBackend,
    shape: tuple[int, ...],
    dtype: str,
    error: type[LMCacheConnectError],
    says: str,
) -> None:
    url += "&max_value_bytes=1000000"
    async with ConnectorManager(url, local_cpu_backend=local_cpu_backend, config=QUICK) as manager:
        with local_cpu_backend.allocate(shape, dtype) as obj:  # type: ignore[union-attr]
            with pytest.raises(error, match=says):
                await manager.create_connector().put("k", obj)
    with valkey_server.client() as client:
        assert client.dbsize() == 0


async def test_other_programs_keys_are_not_listed(
    connector: ManagedConnector, valkey_server: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    store(valkey_server, "a payload alone", None, b"p")
    with valkey_server.client() as client:
        client.set("a framed record", b"KVCF")
        client.rpush("a listmetadata", b"x")
    names = ["k", "kmetadata", "kkv_bytes", "metadata"]
    for name in names:
        with chunk(local_cpu_backend, name, SIZE) as obj:
            await connector.put(name, obj)
    assert sorted(await connector.list()) == sorted(names)
    for name in names:
        assert holds(await connector.get(name), name)


@pytest.mark.parametrize("option", ["stripe=2097152", "stripe=0", "prefix=tenant", "checksum=true", "checksum=false"])
@pytest.mark.parametrize("form", ["layout=lmcache&{}", "{}&layout=lmcache"])
async def test_an_option_that_lmcaches_records_know_nothing_of_is_refused_beside_the_layout(
    option: str, form: str
) -> None:
    async with ConnectorManager(f"redis://localhost?{form.format(option)}", config=QUICK) as manager:
        with pytest.raises(InvalidOptionError) as caught:
            manager.create_connector()
    name, value = option.split("=")
    assert (caught.value.option, caught.value.value) == (name, value)
    assert f"whose records have no {name}" in str(caught.value)


async def test_an_unknown_layout_is_refused_with_those_that_there_are() -> None:
    async with ConnectorManager("redis://localhost?layout=raw", config=QUICK) as manager:
        with pytest.raises(InvalidOptionError, match="'connect' or 'lmcache'"):
            manager.create_connector()


async def test_both_layouts_live_in_one_store_and_see_nothing_of_each_other(
    connector: ManagedConnector, valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, local_cpu_backend=local_cpu_backend, config=QUICK) as manager:
        framed = manager.create_connector()
        with chunk(local_cpu_backend, "k", SIZE) as obj:
            await framed.put("k", obj)
            assert await connector.exists("k") is False
            assert await connector.get("k") is None
            await connector.put("k", obj)
        assert await framed.remove("k")
        assert await framed.get("k") is None
    assert holds(await connector.get("k"), "k")


async def test_the_recording_has_every_dtype_and_every_format_that_lmcache_allocates() -> None:
    assert [replace(stored, metadata="") for stored in recorded()] == list(TO_RECORD)
    formats = {MemoryFormat[stored.fmt] for stored in recorded()}
    assert set(MemoryFormat) - formats == {MemoryFormat.UNDEFINED, MemoryFormat.BINARY}
