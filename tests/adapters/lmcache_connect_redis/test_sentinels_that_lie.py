"""What sentinels say is not believed: they may be down, slow, wrong, or something else. And what URLs say of them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, StoreUnavailableError
from lmcache_connect.errors import InvalidOptionError, InvalidURLError, StoreCommandError, StoreError
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.process import unused_port
from lmcache_connect.testing.servers.redis import StoreServer

from .chunks import chunk, holds
from .scripted_server import Answer, ScriptedServer

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(operation_timeout=4, retries=0, breaker_failures=1000, max_local_cpu_bytes=64 << 20)


def names(host: str, port: int | str) -> bytes:
    """The answer of a sentinel that names a primary."""
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(host), host.encode(), len(str(port)), str(port).encode())


def sentinel(answer: Answer) -> ScriptedServer:
    return ScriptedServer({b"PING": b"+PONG\r\n", b"SENTINEL": answer})


def url_of(*ports: int, options: str = "", credentials: str = "", service: str = "kv") -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return f"redis-sentinel://{credentials}{hosts}/{service}{options}"


@contextmanager
def a_pair() -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    """A primary and its replica."""
    with ValkeyServer() as primary, ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
        yield primary, replica


async def a_chunk_lives(url: str, server: StoreServer) -> None:
    """Asserts that a put and a get work, and end up at the server."""
    async with ConnectorManager(url, config=QUICK) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
        assert holds(await connector.get("k"), "k")
        assert await connector.exists("k")
    with server.client() as client:
        assert client.dbsize() == 1


@pytest.mark.parametrize(
    "lie",
    [
        b"*-1\r\n",
        b"*0\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"*99999999\r\n",
        b"*2\r\n$9\r\n127.0.0.1\r\n$-1\r\n",
        b"*2\r\n*1\r\n$1\r\nx\r\n$4\r\n6379\r\n",
        names("127.0.0.1", 0),
        names("127.0.0.1", 65536),
        names("127.0.0.1", "6379 "),
        names("", 6379),
        names("user@evil", 6379),
        names("a b", 6379),
        names("h" * 4000, 6379),
        names("127.0.0.1", 1),
        b"-ERR unknown command 'SENTINEL'\r\n",
        b"-LOADING no\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
    ],
)
async def test_a_sentinel_that_says_something_else_is_skipped(lie: bytes) -> None:
    with ValkeyServer() as server:
        async with sentinel(lie) as liar, sentinel(names("127.0.0.1", server.port)) as honest:
            if not lie:
                liar.close_after = b"SENTINEL"
            await a_chunk_lives(url_of(liar.port, honest.port), server)
            assert liar.connections


async def test_a_sentinel_that_names_a_replica_is_not_believed() -> None:
    with a_pair() as (primary, replica):
        async with (
            sentinel(names("127.0.0.1", replica.port)) as late,
            sentinel(names("127.0.0.1", primary.port)) as informed,
        ):
            await a_chunk_lives(url_of(late.port, informed.port), primary)
            assert late.connections == 1, "the one that was right is asked first from then on"


async def test_sentinels_that_are_down_or_silent_cost_a_moment() -> None:
    with ValkeyServer() as server:
        async with sentinel(names("127.0.0.1", server.port)) as honest:
            with socket.create_server(("127.0.0.1", 0)) as silent:
                began = time.monotonic()
                await a_chunk_lives(url_of(unused_port(), silent.getsockname()[1], honest.port), server)
                assert time.monotonic() - began < QUICK.operation_timeout


async def test_where_all_sentinels_name_a_replica_each_put_ends_with_an_error_that_says_so() -> None:
    with a_pair() as (_, replica):
        answer = names("127.0.0.1", replica.port)
        async with sentinel(answer) as one, sentinel(answer) as other:
            async with ConnectorManager(url_of(one.port, other.port), config=QUICK) as manager:
                connector = manager.create_connector()
                with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                    for _ in range(3):
                        with pytest.raises(StoreUnavailableError, match="says that it is a replica"):
                            await connector.put("k", obj)
                with pytest.raises(StoreUnavailableError, match="none of 2 sentinels leads to the primary of 'kv'"):
                    await connector.exists("k")


async def test_the_error_names_each_sentinel_and_what_was_wrong_with_it() -> None:
    down = unused_port()
    async with sentinel(b"*-1\r\n") as stranger:
        async with ConnectorManager(url_of(down, stranger.port), config=QUICK) as manager:
            with pytest.raises(StoreUnavailableError) as caught:
                await manager.create_connector().ping()
    told = str(caught.value)
    assert f"127.0.0.1:{down}: cannot connect" in told
    assert f"127.0.0.1:{stranger.port}: the sentinel knows no service 'kv'" in told


@pytest.mark.parametrize("errors", ["raise", "miss"])
async def test_a_service_that_no_sentinel_knows_raises_in_both_error_modes(errors: str) -> None:
    async with sentinel(b"*-1\r\n") as one, sentinel(b"*-1\r\n") as other:
        url = url_of(one.port, other.port, options=f"?errors={errors}")
        async with ConnectorManager(url, config=QUICK) as manager:
            with pytest.raises(StoreCommandError, match="knows no service 'kv'"):
                await manager.create_connector().get("k")


@pytest.mark.parametrize("errors", ["raise", "miss"])
async def test_a_data_node_in_the_place_of_the_sentinels_is_named_in_both_error_modes(errors: str) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(url_of(server.port, options=f"?errors={errors}")) as manager:
            with pytest.raises(StoreCommandError, match=rf"127.0.0.1:{server.port} is not a sentinel.*port 26379"):
                await manager.create_connector().exists("k")


async def test_the_data_nodes_password_is_never_told_to_a_sentinel() -> None:
    with ValkeyServer(password="for-data") as server:
        async with sentinel(names("127.0.0.1", server.port)) as honest:
            await a_chunk_lives(url_of(honest.port, credentials="default:for-data@"), server)
            assert {command[0] for command in honest.commands} == {b"EXISTS", b"SENTINEL"}


async def test_a_sentinel_gets_the_user_and_the_password_that_are_meant_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("for-sentinels\n")
    monkeypatch.setenv("FOR_SENTINELS", "for-sentinels")
    with ValkeyServer() as server:
        for option in (f"sentinel_password_file={tmp_path}/password", "sentinel_password_env=FOR_SENTINELS"):
            for user, expected in (("", []), ("&sentinel_username=watcher", [b"watcher"])):
                async with sentinel(names("127.0.0.1", server.port)) as honest:
                    url = url_of(honest.port, options=f"?{option}{user}")
                    async with ConnectorManager(url, config=QUICK) as manager:
                        await manager.create_connector().ping()
                    assert honest.commands[0] == [b"AUTH", *expected, b"for-sentinels"]


async def test_a_sentinel_that_wants_another_password_says_which_options_are_for_it() -> None:
    with ValkeyServer(password="for-sentinels") as strict:
        async with ConnectorManager(url_of(strict.port), config=QUICK) as manager:
            with pytest.raises(AuthenticationError, match=r"\?sentinel_username= and \?sentinel_password_file="):
                await manager.create_connector().ping()


async def test_a_wrong_password_at_the_primary_is_an_authentication_error_whatever_the_sentinels_say() -> None:
    with ValkeyServer(password="right") as server:
        answer = names("127.0.0.1", server.port)
        async with sentinel(answer) as one, sentinel(answer) as other:
            url = url_of(one.port, other.port, unused_port(), credentials=":wrong@")
            async with ConnectorManager(url, config=QUICK) as manager:
                with pytest.raises(AuthenticationError) as caught:
                    await manager.create_connector().ping()
                assert "wrong@" not in str(caught.value)


async def test_the_sentinels_are_asked_once_for_the_connections_that_are_opened_together() -> None:
    with ValkeyServer() as server:
        async with sentinel(names("127.0.0.1", server.port)) as honest:
            async with ConnectorManager(url_of(honest.port, options="?pool_size=4&io=loop"), config=QUICK) as manager:
                connector = manager.create_connector()
                await connector.ping()
                with chunk(manager.local_cpu_backend, "k", 2 << 20) as obj:
                    await asyncio.gather(*(connector.put(f"k{number}", obj) for number in range(8)))
            assert honest.connections == 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis-sentinel:///kv", "no host"),
        ("redis-sentinel://a,b", "no service"),
        ("redis-sentinel://a,b/", "no service"),
        ("redis-sentinel://a/one/two", "2 services: one, two"),
        ("redis-sentinel://a/one,two", "2 services: one, two"),
        ("redis-sentinel://a/kv/3", r"as \?db=3"),
        ("redis-sentinel://a:1,a:1/kv", "given twice"),
        ("redis-sentinel://a:0/kv", "the port of a is 0"),
        ("redis-sentinel://a/kv?sentinel_username=u", "sentinel_username needs"),
        ("redis-sentinel://a/kv?sentinel_password_file=x&sentinel_password_env=y", "exclude each other"),
        ("redis-sentinel://a/kv?sentinel_password_file=/nowhere", "sentinel_password_file"),
        ("redis-sentinel://a/kv,redis-sentinel://b/kv", "several URLs joined by a comma"),
        ("redis-sentinel://a,redis://b/kv", "several URLs joined by a comma"),
        ("redis://a/kv?sentinel_tls=true", "sentinel_tls"),
    ],
)
async def test_a_bad_url_is_refused_with_what_is_wrong(url: str, says: str) -> None:
    async with ConnectorManager(config=QUICK) as manager:
        with pytest.raises((InvalidURLError, InvalidOptionError), match=says):
            manager.create_connector(url)


async def test_a_database_is_selected_by_its_option() -> None:
    with ValkeyServer() as server:
        async with sentinel(names("127.0.0.1", server.port)) as honest:
            async with ConnectorManager(url_of(honest.port, options="?db=3"), config=QUICK) as manager:
                with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                    await manager.create_connector().put("k", obj)
        with server.client() as client:
            assert client.info("keyspace").keys() == {"db3"}


async def test_a_caller_that_is_cancelled_leaves_no_task_and_no_connection_behind() -> None:
    with ValkeyServer() as server:
        server.pause()
        async with sentinel(names("127.0.0.1", server.port)) as one, sentinel(names("127.0.0.1", 1)) as other:
            async with ConnectorManager(url_of(one.port, other.port), config=QUICK) as manager:
                connector = manager.create_connector()
                before = asyncio.all_tasks()
                call = asyncio.create_task(connector.exists("k"))
                while not other.connections:
                    await asyncio.sleep(0.01)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                left = {task for task in asyncio.all_tasks() - before if "ScriptedServer" not in repr(task)}
                assert not left
        server.resume()


async def test_a_primary_that_is_silent_ends_the_call_by_its_deadline() -> None:
    with ValkeyServer() as server:
        async with sentinel(names("127.0.0.1", server.port)) as honest:
            async with ConnectorManager(url_of(honest.port), config=QUICK) as manager:
                connector = manager.create_connector()
                server.pause()
                began = time.monotonic()
                with pytest.raises(StoreError):
                    await connector.exists("k")
                assert time.monotonic() - began < QUICK.operation_timeout + 0.5
                server.resume()
                assert not await connector.exists("k")
