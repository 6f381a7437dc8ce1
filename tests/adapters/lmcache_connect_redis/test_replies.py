"""What a server may answer, and what becomes of it."""

from __future__ import annotations

import asyncio

import pytest

from lmcache_connect import (
    ArenaExhaustedError,
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import (
    ReadOnlyStoreError,
    StoreCommandError,
    StoreFullError,
    StoreLoadingError,
    StoreProtocolError,
    ValueTooLargeError,
    WrongNodeError,
)
from lmcache_connect.testing import ValkeyServer
from lmcache_connect_redis.protocol.replies import ends_connection, is_refusal

from .chunks import chunk, holds
from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(operation_timeout=2, retries=0, breaker_failures=100, max_local_cpu_bytes=16 << 20)


@pytest.mark.parametrize(
    ("line", "expected", "advice"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFullError, "raise it"),
        ("READONLY You can't write against a read only replica.", ReadOnlyStoreError, "point the URL at the primary"),
        ("LOADING Redis is loading the dataset in memory", StoreLoadingError, "answers when that is done"),
        ("EXECABORT Transaction discarded because of: OOM command not allowed", StoreFullError, "maxmemory is reached"),
        ("NOAUTH Authentication required.", AuthenticationError, "wants a password"),
        ("NOPERM this user has no permissions", AuthenticationError, "ACL GETUSER"),
        ("MOVED 3999 127.0.0.1:6381", WrongNodeError, "lives on another node; use redis-cluster://"),
        ("ASK 3999 127.0.0.1:6381", WrongNodeError, "is moving to another node; use redis-cluster://"),
        ("CLUSTERDOWN Hash slot not served", StoreUnavailableError, "CLUSTER INFO"),
        ("MISCONF Errors writing to the AOF file", StoreCommandError, "cannot save"),
        ("ERR max number of clients reached", StoreUnavailableError, "maxclients"),
        ("ERR something unheard of", StoreCommandError, "something unheard of"),
    ],
)
@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_an_error_reply_becomes_a_typed_error_that_says_what_to_do(
    line: str, expected: type[StoreError], advice: str, io: str
) -> None:
    answer = f"-{line}\r\n".encode()
    async with (
        ScriptedServer(
            dict.fromkeys((b"GET", b"SET", b"EXISTS", b"UNLINK", b"DEL", b"SCAN", b"PING"), answer)
        ) as server,
        ConnectorManager(f"{server.url}?io={io}", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            calls = (
                connector.get("k"),
                connector.put("k", obj),
                connector.exists("k"),
                connector.remove("k"),
                connector.list(),
                connector.batched_exists(["a", "b", "c"]),
                connector.batched_get(["a", "b", "c"]),
                connector.batched_put(["a"], [obj]),
            )
            for call in calls:
                with pytest.raises(expected) as caught:
                    await call
                assert advice in str(caught.value)
                assert line in str(caught.value)
            if is_refusal(line):
                await connector.ping()  # that is an answer as well
            else:
                with pytest.raises(expected):
                    await connector.ping()
        # An error reply is an answer: the connections were kept, except to a server that is the wrong one now.
        assert (server.connections <= 6) == (not ends_connection(line))


@pytest.mark.parametrize(
    "answer",
    [
        b"$4398046511104\r\nxx",
        b"$99999999999999999999999\r\n",
        b"$-2\r\n",
        b"$abc\r\n",
        b"$\r\n",
        b":5\r\n",
        b"*1\r\n$1\r\na\r\n",
        b"*-1\r\n",
        b"+OK\r\n",
        b"!3\r\nabc\r\n",
        b"\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("io", ["thread", "loop"])
async def test_an_answer_that_breaks_the_protocol_is_an_error_and_never_an_allocation(answer: bytes, io: str) -> None:
    async with (
        ScriptedServer({b"GET": answer}) as server,
        ConnectorManager(f"{server.url}?io={io}", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with pytest.raises((StoreProtocolError, StoreUnavailableError)):
            await connector.get("k")
        assert manager.local_cpu_backend.statistics().allocations == 0
        server.answers[b"GET"] = b"$-1\r\n"
        assert await connector.get("k") is None


@pytest.mark.parametrize("answer", [b":1\r\n:1\r\n", b"$-1\r\n$-1\r\n", b"$-1\r\n:"])
async def test_a_reply_that_nobody_asked_for_never_goes_to_the_next_command(answer: bytes) -> None:
    command = b"EXISTS" if answer.startswith(b":") else b"GET"
    async with ScriptedServer({command: answer}) as server, ConnectorManager(server.url, config=QUICK) as manager:
        connector = manager.create_connector()
        for _ in range(3):
            if command == b"GET":
                assert await connector.get("k") is None
            else:
                assert await connector.exists("k") is True
        assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [b"*3\r\n$1\r\n0\r\n*0\r\n*0\r\n", b"*2\r\n$1\r\n0\r\n*99999999\r\n", b"*2\r\n*2\r\n", b"*2\r\n$999999\r\n"],
)
async def test_a_nonsensical_scan_is_an_error(answer: bytes) -> None:
    async with ScriptedServer({b"SCAN": answer}) as server, ConnectorManager(server.url, config=QUICK) as manager:
        with pytest.raises(StoreProtocolError):
            await manager.create_connector().list()


async def test_one_error_among_many_answers_is_raised_and_the_connection_stays_in_step() -> None:
    answers = iter([b":1\r\n", b"-BUSY soon\r\n", b":0\r\n", b":1\r\n"])
    async with (
        ScriptedServer({b"EXISTS": lambda _: next(answers)}) as server,
        ConnectorManager(server.url, config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with pytest.raises(StoreUnavailableError):
            await connector.batched_exists(["a", "b", "c"])
        assert await connector.exists("d") is True
        assert server.connections == 1


async def test_a_lookup_of_a_thousand_keys_is_one_round_trip() -> None:
    async with ScriptedServer({b"EXISTS": b":1\r\n"}) as server, ConnectorManager(server.url, config=QUICK) as manager:
        connector = manager.create_connector()
        # The server answers nothing before it has read everything, so a second round trip would never come.
        held: list[bytes] = []

        def answer(command: list[bytes]) -> bytes:
            held.append(b":1\r\n" if int(command[1][1:-3]) % 3 else b":0\r\n")
            return b"".join(held) if len(held) == 1000 else b""

        server.answers[b"EXISTS"] = answer
        assert await connector.batched_exists([str(i) for i in range(1000)]) == [i % 3 != 0 for i in range(1000)]


async def test_a_full_server_refuses_writes_by_name_and_still_reads() -> None:
    with ValkeyServer(maxmemory="8mb", config={"maxmemory-policy": "noeviction"}) as server:
        async with ConnectorManager(server.url(), config=QUICK) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 2 << 20) as obj:
                await connector.put("k", obj)
                with pytest.raises(StoreFullError, match="maxmemory"):
                    for i in range(8):
                        await connector.put(f"more-{i}", obj)
            assert holds(await connector.get("k"), "k")


async def test_a_replica_refuses_writes_by_name(valkey_server: ValkeyServer, valkey_url: str) -> None:
    with ValkeyServer(config={"replicaof": f"{valkey_server.host} {valkey_server.port}"}) as replica:
        async with ConnectorManager(replica.url(), config=QUICK) as manager:
            with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                with pytest.raises(ReadOnlyStoreError, match="point the URL at the primary"):
                    await manager.create_connector().put("k", obj)


async def test_a_value_above_the_limit_is_a_miss_in_its_own_slot_and_stays(
    valkey_server: ValkeyServer, valkey_url: str
) -> None:
    async with ConnectorManager(f"{valkey_url}?stripe=0", config=QUICK) as manager:
        connector = manager.create_connector()
        for key, nbytes in (("a", 4096), ("b", 20_000), ("c", 2 << 20), ("d", 4096)):
            with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                await connector.put(key, obj)
        reader = manager.create_connector(f"{valkey_url}?max_value_bytes=5000")
        found = await reader.batched_get(["a", "b", "c", "d"])
        assert [holds(obj, key) for obj, key in zip(found, "abcd", strict=True)] == [True, False, False, True]
        assert await reader.get("c") is None
        assert reader.statistics()["batched_get"].misses["corrupt:too_large"] == 2
        assert await connector.batched_exists(["a", "b", "c", "d"]) == [True] * 4
        del found


@pytest.mark.parametrize("stripe", [0, 1 << 18])
async def test_a_chunk_that_is_larger_than_the_arena_is_a_miss_in_its_own_slot(
    valkey_server: ValkeyServer, valkey_url: str, stripe: int
) -> None:
    url = f"{valkey_url}?stripe={stripe}"
    async with ConnectorManager(url, config=QUICK) as manager:
        connector = manager.create_connector()
        for key, nbytes in (("a", 4096), ("b", 3 << 20), ("c", 4096)):
            with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                await connector.put(key, obj)
    async with ConnectorManager(url, config=QUICK, local_cpu_backend=LocalCPUBackend(1 << 20)) as manager:
        connector = manager.create_connector()
        for _ in range(2):
            found = await connector.batched_get(["a", "b", "c"])
            assert [holds(obj, key) for obj, key in zip(found, "abc", strict=True)] == [True, False, True]
            del found
        assert connector.statistics()["batched_get"].misses["corrupt:too_large"] == 2
        with pytest.raises(ArenaExhaustedError):
            await connector.get("b")
        assert await connector.exists("b")


async def test_a_chunk_above_the_value_limit_is_refused_before_a_byte_is_sent(valkey_url: str) -> None:
    async with ConnectorManager(f"{valkey_url}?max_value_bytes=5000", config=QUICK) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 8192) as obj, chunk(manager.local_cpu_backend, "s", 4096) as small:
            with pytest.raises(ValueTooLargeError, match="exceeds the limit of 5000 bytes"):
                await connector.put("k", obj)
            await connector.put("s", small)
        assert await connector.exists("k") is False


async def test_a_value_beyond_the_servers_own_limit_is_an_error_that_tells_why() -> None:
    with ValkeyServer(config={"proto-max-bulk-len": "1mb"}) as server:
        async with ConnectorManager(server.url(), config=QUICK) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 2 << 20) as obj:
                # The server's words come before it closes the connection. Either may be noticed first.
                with pytest.raises((StoreUnavailableError, StoreCommandError), match="invalid bulk length"):
                    await connector.put("k", obj)
            assert await connector.exists("k") is False


async def test_no_request_follows_on_a_connection_whose_server_turned_out_to_be_the_wrong_one() -> None:
    refused = b"-READONLY You can't write against a read only replica.\r\n"
    puts = demoted = 0

    def answer(_: list[bytes]) -> bytes:
        nonlocal puts, demoted
        puts += 1
        if puts == 50:
            demoted = server.connections
        return refused if server.connections == demoted else b"+OK\r\n"

    async with (
        ScriptedServer({b"SET": answer}) as server,
        ConnectorManager(f"{server.url}?pool_size=1&io=loop", config=QUICK) as manager,
    ):
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 64) as obj:
            await connector.put("k", obj)
            await asyncio.sleep(1.1)  # a tenure lasts a second at least
            found = await asyncio.gather(*[connector.put(f"k{n}", obj) for n in range(400)], return_exceptions=True)
        failed = [error for error in found if error is not None]
        assert all(isinstance(error, ReadOnlyStoreError) for error in failed)
        assert 1 <= len(failed) <= 2 * 32  # those that were under way
