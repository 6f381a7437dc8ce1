"""What nodes of a cluster may say instead of an answer: all of it ends, and concerns no other key."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from lmcache_connect import (
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    RemoteConnector,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import CircuitOpenError, StoreProtocolError, WrongNodeError
from lmcache_connect.record import chunk_names, encode_record
from lmcache_connect_redis.options import RedisOptions, probe_of
from lmcache_connect_redis.topology.slots import SLOTS, slot_of

from .chunks import chunk, holds
from .scripted_server import Answer, ScriptedServer

pytestmark = pytest.mark.asyncio

STRICT = ConnectorConfig.load(errors="raise", operation_timeout=8, retries=0, max_local_cpu_bytes=16 << 20)
[NAME] = chunk_names("", ["key"])
SLOT = slot_of(NAME)


def map_of(*shares: tuple[int, int, str, int]) -> bytes:
    """The reply to CLUSTER SLOTS: for each share its first and last slot, and the host and port of its primary."""
    told = [
        b"*3\r\n:%d\r\n:%d\r\n*3\r\n$%d\r\n%b\r\n:%d\r\n$2\r\nid\r\n" % (first, last, len(host), host.encode(), port)
        for first, last, host, port in shares
    ]
    return b"*%d\r\n%b" % (len(told), b"".join(told))


def whole_map(server: ScriptedServer) -> bytes:
    return map_of((0, SLOTS - 1, "127.0.0.1", server.port))


def for_key(answer: Callable[[], bytes]) -> Callable[[list[bytes]], bytes]:
    """Answers for the one key as `answer` says. Every other key is there."""
    return lambda command: answer() if command[1].decode() == NAME else b":1\r\n"


@asynccontextmanager
async def connected(
    server: ScriptedServer, answers: dict[bytes, Answer], config: ConnectorConfig = STRICT
) -> AsyncIterator[RemoteConnector]:
    server.answers.update({b"CLUSTER": whole_map(server), **answers})
    async with ConnectorManager(f"redis-cluster://127.0.0.1:{server.port}", config=config) as manager:
        yield manager.create_connector()


async def test_a_circle_of_redirects_ends_and_costs_no_other_key() -> None:
    async with ScriptedServer({}) as first, ScriptedServer({}) as second:
        circle = {
            port: for_key(lambda to=other: b"-MOVED %d 127.0.0.1:%d\r\n" % (SLOT, to))  # type: ignore[misc]
            for port, other in ((first.port, second.port), (second.port, first.port))
        }
        second.answers.update({b"EXISTS": circle[second.port], b"CLUSTER": whole_map(first)})
        miss = STRICT.model_copy(update={"errors": "miss"})
        async with connected(first, {b"EXISTS": circle[first.port]}, miss) as connector:
            assert await connector.batched_exists(["key", "other"]) == [False, True]
        async with connected(first, {b"EXISTS": circle[first.port]}) as connector:
            with pytest.raises(StoreUnavailableError, match="nodes named another one"):
                await connector.exists("key")


@pytest.mark.parametrize(
    "target",
    [
        b"MOVED %d 127.0.0.1:99999",
        b"MOVED %d",
        b"ASK %d a b:1",
        b"ASK %d unix/x:1",
        b"MOVED -%d 127.0.0.1:1",
        b"MOVED %d a?b:1",
        b"ASK %d ??:1",
    ],
)
async def test_a_redirect_that_leads_nowhere_is_an_error_of_its_key(target: bytes) -> None:
    async with (
        ScriptedServer({}) as server,
        connected(server, {b"EXISTS": for_key(lambda: b"-" + target % SLOT + b"\r\n")}) as connector,
    ):
        with pytest.raises(WrongNodeError):
            await connector.exists("key")
        assert await connector.exists("other")


@pytest.mark.parametrize("host", [b"a..b", b"a" * 64])
async def test_a_host_whose_name_cannot_be_one_costs_its_own_keys(host: bytes) -> None:
    answers: dict[bytes, Answer] = {b"EXISTS": for_key(lambda: b"-MOVED %d %b:1\r\n" % (SLOT, host))}
    miss = STRICT.model_copy(update={"errors": "miss"})
    async with ScriptedServer({}) as server, connected(server, answers, miss) as connector:
        assert await connector.batched_exists(["key", "other"]) == [False, True]


async def test_what_has_come_before_a_node_was_lost_is_kept_where_no_map_can_be_had() -> None:
    with LocalCPUBackend(1 << 20) as memory, chunk(memory, "key", 1000) as obj:
        record = encode_record(NAME, obj)
    async with ScriptedServer({}) as server:

        def answer(command: list[bytes]) -> bytes:
            if command[1].decode() == NAME:
                return b"$%d\r\n%b\r\n" % (len(record), record)
            server.close_after = b"GET"
            server.answers[b"CLUSTER"] = b"-ERR no map any more\r\n"
            return b""

        miss = STRICT.model_copy(update={"errors": "miss"})
        async with connected(server, {b"GET": answer}, miss) as connector:
            first, second = await connector.batched_get(["key", "other"])
            assert holds(first, "key")
            assert second is None


async def test_a_call_that_has_found_no_cluster_keeps_no_buffer(unused_tcp_port: int) -> None:
    buffer = bytearray(1000)
    gc.disable()  # what is freed by the garbage collector alone, is freed too late
    try:
        async with ConnectorManager(f"redis-cluster://127.0.0.1:{unused_tcp_port}", config=STRICT) as manager:
            connector = manager.create_connector()
            with contextlib.suppress(StoreUnavailableError):
                await connector.get_into("key", memoryview(buffer))
            buffer.append(1)  # which a view would forbid
    finally:
        gc.enable()


async def test_redirects_to_nodes_without_number_are_bounded() -> None:
    async with ScriptedServer({}) as server:
        ports = iter(range(1, 1000))

        def elsewhere(command: list[bytes]) -> bytes:
            return b"-MOVED %d 127.0.0.1:%d\r\n" % (slot_of(command[1].decode()), next(ports))

        async with connected(server, {b"EXISTS": elsewhere}) as connector:
            with pytest.raises(StoreError):
                await connector.batched_exists([f"key-{number}" for number in range(200)])


async def test_a_node_of_the_same_host_needs_not_name_it() -> None:
    async with ScriptedServer({}) as first, ScriptedServer({b"EXISTS": b":1\r\n"}) as second:
        answers: dict[bytes, Answer] = {
            b"CLUSTER": map_of((0, SLOTS - 1, "", first.port)),
            b"EXISTS": b"-MOVED %d :%d\r\n" % (SLOT, second.port),
        }
        second.answers[b"CLUSTER"] = map_of((0, SLOTS - 1, "", second.port))
        async with connected(first, answers) as connector:
            assert await connector.exists("key")


async def test_a_cluster_that_is_down_for_a_moment_is_waited_for() -> None:
    async with ScriptedServer({}) as server:
        left = [3]

        def answer() -> bytes:
            left[0] -= 1
            return b"-CLUSTERDOWN The cluster is down\r\n" if left[0] >= 0 else b":1\r\n"

        async with connected(server, {b"EXISTS": for_key(answer)}) as connector:
            assert await connector.batched_exists(["key", "other"]) == [True, True]


async def test_a_cluster_that_stays_down_is_waited_for_once() -> None:
    async with ScriptedServer({}) as server:
        down: dict[bytes, Answer] = {b"EXISTS": b"-CLUSTERDOWN The cluster is down\r\n"}
        async with connected(server, down) as connector:
            asked = [0]
            for _ in range(2):
                with pytest.raises(StoreUnavailableError, match="lost part of its slots"):
                    await connector.exists("key")
                asked.append(sum(command[0] == b"EXISTS" for command in server.commands))
            assert asked[1] > 2
            assert asked[2] == asked[1] + 1


async def test_a_cluster_that_lets_nobody_write_is_waited_for_once_though_it_is_read() -> None:
    answers: dict[bytes, Answer] = {b"EXISTS": b":1\r\n", b"SET": b"-CLUSTERDOWN The cluster is down\r\n"}
    async with (
        ScriptedServer({}) as server,
        connected(server, answers) as connector,
        asyncio.timeout(7.5),  # a put that waits to its end takes longer
    ):
        reading = asyncio.create_task(_read(connector))
        for _ in range(3):
            with pytest.raises(StoreUnavailableError, match="lost part of its slots"):
                await connector.put_from("key", bytearray(1000))
        reading.cancel()


async def _read(connector: RemoteConnector) -> None:
    while await connector.exists("key"):
        await asyncio.sleep(0.01)


async def test_nodes_that_hang_do_not_hide_those_that_know_the_map() -> None:
    async with AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(ScriptedServer({b"CLUSTER": b""})) for _ in range(10)]
        server = await stack.enter_async_context(ScriptedServer({b"EXISTS": b":1\r\n"}))
        server.answers[b"CLUSTER"] = whole_map(server)
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in [*silent, server])
        manager = await stack.enter_async_context(ConnectorManager(f"redis-cluster://{hosts}", config=STRICT))
        assert await manager.create_connector().exists("key")  # three at a time, it would be late


@pytest.mark.parametrize("says", [b"-CLUSTERDOWN Hash slot not served\r\n", b"-MOVED 8119 127.0.0.1:1\r\n"])
@pytest.mark.parametrize("lacks", [None, b"CLIENT"])  # what the server closes the connection over
async def test_the_slot_of_the_probe_bars_no_node(says: bytes, lacks: bytes | None) -> None:
    probe = probe_of(RedisOptions())
    answers: dict[bytes, Answer] = {
        b"UNLINK": says,
        b"PEXPIRE": says,
        b"PERSIST": says,
        b"RENAME": says,
        b"EXISTS": lambda command: says if command[1] == probe else b":1\r\n",
    }
    async with ScriptedServer({}) as server:
        server.close_after = lacks
        async with connected(server, answers) as connector:
            assert await connector.exists("key")
            assert await connector.ping() == 0


async def test_slots_that_nobody_has_are_waited_for_once() -> None:
    async with ScriptedServer({b"EXISTS": b":1\r\n"}) as server:
        rest = map_of((0, SLOT - 1, "127.0.0.1", server.port), (SLOT + 1, SLOTS - 1, "127.0.0.1", server.port))
        miss = STRICT.model_copy(update={"errors": "miss"})
        async with connected(server, {b"CLUSTER": rest}, miss) as connector, asyncio.timeout(7.5):
            for _ in range(5):
                assert await connector.batched_exists(["key", "other"]) == [False, True]


async def test_calls_that_were_given_up_say_nothing_of_the_cluster() -> None:
    careful = STRICT.model_copy(update={"breaker_failures": 2, "stall_timeout": 0.5})
    async with ScriptedServer({}) as server, connected(server, {b"CLUSTER": b""}, careful) as connector:
        calls = [asyncio.create_task(connector.exists("key")) for _ in range(5)]
        while not server.commands:
            await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        with pytest.raises(StoreUnavailableError, match="moved no byte") as raised:
            await connector.exists("key")
        assert not isinstance(raised.value, CircuitOpenError)


async def test_slots_that_nobody_has_cost_no_other_key() -> None:
    async with ScriptedServer({}) as server:
        holes = map_of((0, SLOT - 1, "127.0.0.1", server.port), (SLOT + 1, SLOTS - 1, "127.0.0.1", server.port))
        miss = STRICT.model_copy(update={"errors": "miss"})
        async with connected(server, {b"CLUSTER": holes, b"EXISTS": b":1\r\n"}, miss) as connector:
            assert await connector.batched_exists(["key", "other"]) == [False, True]


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b"*1\r\n*2\r\n:0\r\n:1\r\n",
        b"*1\r\n:7\r\n",
        b"*1000000000\r\n",
        b"*-7\r\n",
        b"$900000000\r\n",
        b"*1\r\n" * 40,
        map_of((0, SLOTS, "127.0.0.1", 1)),
        map_of((0, 5, "a b", 1)),
    ],
)
async def test_a_map_that_cannot_be_one_is_refused_at_once(reply: bytes) -> None:
    async with ScriptedServer({}) as server, connected(server, {b"CLUSTER": reply}) as connector:
        with pytest.raises(StoreProtocolError):
            await connector.exists("key")


async def test_a_thousand_redirects_ask_for_the_map_a_few_times() -> None:
    async with ScriptedServer({}) as first, ScriptedServer({}) as second:
        moved: dict[bytes, Answer] = {
            b"EXISTS": lambda command: b"-MOVED %d 127.0.0.1:%d\r\n" % (slot_of(command[1].decode()), second.port)
        }
        second.answers.update({b"EXISTS": b":1\r\n", b"CLUSTER": whole_map(first)})
        async with connected(first, moved) as connector:
            keys = [[f"key-{number}-{index}" for index in range(100)] for number in range(10)]
            told = await asyncio.gather(*[connector.batched_exists(some) for some in keys])
            assert all(all(flags) for flags in told)
            asked = [command for command in first.commands + second.commands if command[0] == b"CLUSTER"]
            assert len(asked) <= 4


async def test_a_user_who_may_not_ask_for_the_map_is_told_which_command_is_needed() -> None:
    refused = b"-NOPERM this user has no permissions to run the 'cluster|slots' command\r\n"
    async with ScriptedServer({}) as server, connected(server, {b"CLUSTER": refused}) as connector:
        with pytest.raises(StoreError, match=r"cluster\|slots"):
            await connector.exists("key")
