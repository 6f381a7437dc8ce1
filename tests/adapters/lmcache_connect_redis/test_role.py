"""A primary that became a replica and kept its connections: look-ups notice it, although it refuses them nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, ManagedConnector
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ScriptedWire, ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer, StoreServer
from lmcache_connect.testing.servers.redis_proxies import HAProxyServer
from lmcache_connect_redis.connector import RedisConnector
from lmcache_connect_redis.protocol.connection import Connection
from lmcache_connect_redis.protocol.role import ASK_ROLE, read_role
from lmcache_connect_redis.protocol.traits import Role

from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

ONCE = ConnectorConfig.load(operation_timeout=5, retries=0, max_local_cpu_bytes=64 << 20)
NOBODY = "127.0.0.1 1"

LookUp = Callable[[ManagedConnector, str], Awaitable[bool]]


async def alone(connector: ManagedConnector, key: str) -> bool:
    return await connector.exists(key)


async def together(connector: ManagedConnector, key: str) -> bool:
    return all(await asyncio.gather(*(connector.exists(key) for _ in range(8))))


async def in_their_own_thread(connector: ManagedConnector, key: str) -> bool:
    return await asyncio.to_thread(connector.sync.exists, key)


def switch(old: StoreServer, new: StoreServer) -> None:
    """Promotes `new`. `old` becomes a replica, of nobody that it finds, so that what it knows stays as it is."""
    with new.client() as client:
        client.replicaof("NO", "ONE")
    with old.client() as client:
        client.execute_command("REPLICAOF", *NOBODY.split())


@pytest.mark.proxy
@pytest.mark.skipif(not HAProxyServer.available(), reason="HAProxy is not installed on this machine")
@pytest.mark.parametrize("look_up", [alone, together, in_their_own_thread])
async def test_look_ups_alone_find_the_new_primary_behind_haproxy_though_the_old_one_answers_them(
    look_up: LookUp,
) -> None:
    with ValkeyServer() as old, ValkeyServer() as new:
        with new.client() as client:
            client.replicaof(old.host, old.port)
        with HAProxyServer(old, new) as proxy:
            async with ConnectorManager(proxy.url(), config=ONCE) as manager:
                connector = manager.create_connector()
                assert not await look_up(connector, "k")
                await anyio.sleep(0.05)
                assert not await look_up(connector, "k")  # a thread has a connection from the second call on
                switch(old, new)
                [name] = chunk_names("", ["k"])
                with new.client() as client:
                    client.set(name, b"what another process has put")
                with anyio.fail_after(10):
                    while not await look_up(connector, "k"):
                        await anyio.sleep(0.02)


async def test_a_url_that_leads_to_a_replica_for_good_is_asked_for_its_role_once() -> None:
    def role(_: list[bytes]) -> bytes:
        return b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:1\r\n"

    async with ScriptedServer({b"ROLE": role, b"EXISTS": b":0\r\n"}) as server:
        async with ConnectorManager(server.url, config=ONCE) as manager:
            connector = manager.create_connector()
            with anyio.move_on_after(1.2):
                while True:
                    assert not await connector.exists("k")
                    await anyio.sleep(0.05)
        assert [command for command in server.commands if command[0] == b"ROLE"] == [[b"ROLE"]]
        assert server.connections == 1


@pytest.mark.parametrize("later", [b"-NOPERM no\r\n", b"-ERR unknown command\r\n", b"*1\r\n$8\r\nsentinel\r\n"])
async def test_a_primary_that_does_not_tell_its_role_again_stays_connected(later: bytes) -> None:
    answers = iter([b"*3\r\n$6\r\nmaster\r\n:1\r\n*0\r\n"])
    asked = 0

    def role(_: list[bytes]) -> bytes:
        nonlocal asked
        asked += 1
        return next(answers, later)

    async with ScriptedServer({b"ROLE": role, b"EXISTS": b":1\r\n"}) as server:
        async with ConnectorManager(server.url, config=ONCE) as manager:
            connector = manager.create_connector()
            with anyio.fail_after(5):
                while asked < 2:
                    assert await connector.exists("k")
                    await anyio.sleep(0.05)
            assert await connector.exists("k")
        assert server.connections == 1


@pytest.mark.parametrize("kind", [ValkeyServer, RedisServer])
async def test_real_servers_tell_their_role(kind: type[StoreServer]) -> None:
    if not kind.available():
        pytest.skip(f"no {kind.__name__} on this machine")
    with kind() as primary, kind(config={"replicaof": f"{primary.host} {primary.port}"}) as replica:
        with primary.client() as client, anyio.fail_after(10):
            while not client.info("replication")["connected_slaves"]:
                await anyio.sleep(0.02)
        for server, expected in ((primary, Role.PRIMARY), (replica, Role.REPLICA)):
            async with ConnectorManager(server.url(), config=ONCE) as manager:
                connector = manager.create_connector().wrapped
                assert isinstance(connector, RedisConnector)
                connection = await connector.dial()
                assert connection.traits.role is expected
                connection.close()


@pytest.mark.parametrize(
    ("says", "role"),
    [
        (b"*3\r\n$6\r\nmaster\r\n:31\r\n*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n9001\r\n$2\r\n31\r\n", Role.PRIMARY),
        (b"*2\r\n+master\r\n*0\r\n", Role.PRIMARY),
        (b"*5\r\n$7\r\nreplica\r\n$4\r\nhost\r\n:1\r\n$7\r\nconnect\r\n:-1\r\n", Role.REPLICA),
        (b"*2\r\n$8\r\nsentinel\r\n*1\r\n$2\r\nm1\r\n", None),
        (b"*0\r\n", None),
        (b"*-1\r\n", None),
        (b"$-1\r\n", None),
        (b"+OK\r\n", None),
        (b":1\r\n", None),
        (b"*1\r\n*1\r\n$6\r\nmaster\r\n", None),
        (b"-ERR unknown command 'ROLE'\r\n", None),
    ],
)
async def test_a_role_is_read_whole_and_unknown_where_it_is_another(says: bytes, role: Role | None) -> None:
    connection = Connection(ScriptedWire(says).loop_stream(), "store")
    await connection.send(ASK_ROLE)
    assert await read_role(connection) is role
    assert connection.is_reusable
    connection.close()


@pytest.mark.parametrize(
    "says",
    [b"*99999999\r\n", b"*1\r\n" * 9, b"*1\r\n$100000\r\n", b"*2\r\n$6\r\nmaster\r\n-ERR no\r\n", b"*1\r\n$x\r\n"],
)
async def test_a_role_beyond_all_bounds_breaks_the_connection(says: bytes) -> None:
    connection = Connection(ScriptedWire(says).loop_stream(), "store")
    await connection.send(ASK_ROLE)
    with pytest.raises(StoreProtocolError):
        await read_role(connection)
    assert not connection.stream.is_open
