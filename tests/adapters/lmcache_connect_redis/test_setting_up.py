"""Setting up a connection: what a peer may answer, what the server may lack, and what may change meanwhile."""

from __future__ import annotations

import asyncio
import random
import shutil
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from lmcache_connect import (
    AuthenticationError,
    ConnectorConfig,
    ConnectorManager,
    RemoteURL,
    StoreError,
    StoreUnavailableError,
)
from lmcache_connect.errors import CertificateError, ReadOnlyStoreError, StoreLoadingError, StoreProtocolError
from lmcache_connect.testing import FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer
from lmcache_connect_redis.options import RedisOptions
from lmcache_connect_redis.protocol.connection import Connection
from lmcache_connect_redis.protocol.replies import encode_command
from lmcache_connect_redis.topology.single import SingleServer

from .address import Address
from .chunks import chunk, holds
from .scripted_server import ScriptedServer

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(operation_timeout=3, retries=0, max_local_cpu_bytes=64 << 20)


def server_of(url: str, **options: object) -> SingleServer:
    return SingleServer(RemoteURL.parse(url), RedisOptions.model_validate(options))


@asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[Connection]:
    """A connection to a server, set up."""
    connection = await asyncio.wait_for(server_of(url, **options).open_connection(), 5)
    try:
        yield connection
    finally:
        connection.close()


@asynccontextmanager
async def peer(*says: bytes, repeats: bytes = b"") -> AsyncIterator[str]:
    """The URL of a peer that answers the first packet with `says`, then `repeats` for as long as it is listened to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1 << 16)
            writer.write(b"".join(says))  # with nothing, `writelines` of Python 3.12.1 tries to send it for ever
            while repeats:
                writer.write(repeats)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def chunks_work(manager: ConnectorManager) -> None:
    """Asserts that a small and a large chunk can be put, got, looked up and removed."""
    connector = manager.create_connector()
    for key, nbytes in (("small", 4096), ("large", 9 << 20)):
        with chunk(manager.local_cpu_backend, key, nbytes) as obj:
            await connector.put(key, obj)
        assert holds(await connector.get(key), key)
        assert await connector.exists(key)
        assert await connector.remove(key)
        assert not await connector.exists(key)
    await connector.ping()


@asynccontextmanager
async def switching_address() -> AsyncIterator[tuple[Address, ValkeyServer, ValkeyServer]]:
    """An address that leads to the first of two servers."""
    with ValkeyServer() as old, ValkeyServer() as new:
        async with Address(old) as address:
            yield address, old, new


def demote(old: ValkeyServer, new: ValkeyServer) -> None:
    """Makes a server the replica of another. Its clients keep their connections."""
    with old.client() as client:
        client.replicaof(new.host, new.port)


# -------------------------------------------------------------------------------------- a peer that says too much


@pytest.mark.parametrize(
    "says",
    [
        b"$4611686018427387904\r\n",
        b"*1000000000\r\n",
        b"*-1000000000\r\n",
        b"*1\r\n" * 50_000,
        b"%1000000000\r\n",
        b"+",
        b":",
        b"-ERR ",
        b"$",
        b"\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"=9999999999\r\n",
        b"(99999999999\r\n",
    ],
)
@pytest.mark.parametrize("path", ["", "/3", "@"])
async def test_what_a_peer_says_during_set_up_is_bounded(says: bytes, path: str) -> None:
    async with peer(says, repeats=b"x" * (1 << 16)) as url:
        target = url.replace("redis://", "redis://user:secret@") if path == "@" else url + path
        tracemalloc.start()
        try:
            with pytest.raises((StoreProtocolError, StoreUnavailableError)):
                async with connected(target):
                    pass
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("seed", range(40))
async def test_no_answer_during_set_up_raises_anything_but_an_error_of_the_store(seed: int) -> None:
    rng = random.Random(seed)
    pieces = [b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$2\r\nab\r\n", b"*2\r\n", b"$-1\r\n", b"\r", b"\n"]
    says = b"".join(rng.choice([*pieces, rng.randbytes(rng.randrange(9))]) for _ in range(rng.randrange(12)))
    async with peer(says) as url:
        with suppress(StoreError):
            async with connected(url.replace("redis://", "redis://:secret@")) as connection:
                assert connection.is_reusable


@pytest.mark.parametrize(
    "says", [b"", b"-", b"+", b":", b"$", b"*", b"-NOAUTH ", b"-WRONGPASS ", b"-ERR unknown command "]
)
@pytest.mark.parametrize("before", [0, 10, 30, 190, 290])
async def test_no_error_shows_the_credentials_that_a_peer_repeats(says: bytes, before: int) -> None:
    echo = says + b"x" * before + b"name-of-a-user the-secret-password\r\n"
    async with peer(echo) as url:
        with pytest.raises(StoreError) as caught:
            async with connected(url.replace("redis://", "redis://name-of-a-user:the-secret-password@")):
                pass
    for text in (str(caught.value), repr(caught.value)):
        assert "the-se" not in text
        assert "name-of" not in text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("excess", [b"+OK\r\n", b"$3\r\nabc\r\n", b"x"])
async def test_a_peer_that_answers_more_than_it_was_asked_gets_no_command(excess: bytes) -> None:
    # The excess would be taken for the reply to the first put.
    async with peer(b"+OK\r\n" * 8 + excess) as url:
        with pytest.raises(StoreProtocolError, match="more than it was asked"):
            async with connected(url):
                pass


async def test_a_password_that_is_set_on_a_running_server_is_found_by_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong\n")
    async with ScriptedServer({}) as server:
        async with ConnectorManager(f"{server.url}?password_file={file}", config=QUICK) as manager:
            connector = manager.create_connector()
            await connector.ping()
            file.write_text("right\n")
            server.answers[b"EXISTS"] = b"-NOAUTH Authentication required.\r\n"
            with pytest.raises(AuthenticationError):
                await connector.exists("k")
            server.answers[b"EXISTS"] = b":1\r\n"
            assert await connector.exists("k")
        assert [command[1] for command in server.commands if command[0] == b"AUTH"] == [b"wrong", b"right"]


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (b"-ERR max number of clients reached\r\n", StoreUnavailableError),
        (b"-DENIED Redis is running in protected mode\r\n", AuthenticationError),
        (b"-NOAUTH Authentication required.\r\n", AuthenticationError),
        (b"-LOADING Redis is loading the dataset in memory\r\n", StoreLoadingError),
    ],
)
async def test_a_peer_that_says_why_and_closes_is_quoted(says: bytes, expected: type[StoreError]) -> None:
    async with peer(says) as url:
        with pytest.raises(expected) as caught:
            async with connected(url):
                pass
    assert says[1:-2].decode() in str(caught.value)


# ------------------------------------------------------------------------------------- what the server may lack


async def test_a_user_who_may_use_no_optional_command_can_do_everything() -> None:
    with ValkeyServer() as server, server.client() as client:
        for lacks in (
            "-client",
            "-ping",
            "-client -multi",
            "-client -ping -multi -exec -discard",
            "-rename",
        ):
            client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">pw", "~*", "+@all", *lacks.split())
            url = server.url().replace("redis://", "redis://worker:pw@")
            async with ConnectorManager(url, config=QUICK) as manager:
                await chunks_work(manager)
            async with connected(url) as connection:
                assert connection.traits.has_transactions == (lacks in ("-client", "-ping"))


@pytest.mark.parametrize("renamed", [("CLIENT",), ("CLIENT", "MULTI"), ("RENAME",)])
async def test_a_server_whose_optional_commands_were_renamed_can_do_everything(renamed: tuple[str, ...]) -> None:
    with ValkeyServer(config={f"rename-command {name}": "" for name in renamed}) as server:
        async with ConnectorManager(server.url(), config=QUICK) as manager:
            await chunks_work(manager)
        async with connected(server.url()) as connection:
            assert connection.traits.has_transactions == (renamed == ("CLIENT",))


async def test_a_user_for_one_prefix_has_transactions_there(valkey_server: ValkeyServer, valkey_url: str) -> None:
    with valkey_server.client() as client:
        client.execute_command("ACL", "SETUSER", "tenant", "reset", "on", ">pw", "~mine:*", "+@all")
        try:
            url = valkey_url.replace("redis://", "redis://tenant:pw@")
            async with connected(url, prefix="mine") as connection:
                assert connection.traits.has_transactions
            async with connected(url, prefix="other") as connection:
                assert not connection.traits.has_transactions
        finally:
            client.execute_command("ACL", "DELUSER", "tenant")


async def test_setting_up_writes_nothing_and_leaves_no_transaction_open(
    valkey_server: ValkeyServer, valkey_url: str
) -> None:
    async with connected(valkey_url) as connection:
        assert connection.is_reusable
        await connection.send(encode_command(b"SET", b"k", b"v"))
        await connection.read_ok()
        with valkey_server.client() as client:
            assert client.keys("*") == [b"k"]
            assert "lmcache-connect" in {found["name"] for found in client.client_list()}


async def test_a_full_server_and_a_replica_have_their_transactions_all_the_same() -> None:
    with ValkeyServer(maxmemory="1mb", config={"maxmemory-policy": "noeviction"}) as full:
        async with connected(full.url()) as connection:
            assert connection.traits.has_transactions
    with ValkeyServer() as primary, ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
        async with connected(replica.url()) as connection:
            assert connection.traits.has_transactions
            assert connection.is_reusable


@pytest.mark.parametrize("refused", [b"MULTI", b"CLIENT"])
async def test_a_peer_that_closes_at_a_command_it_lacks_is_asked_again_without_it(refused: bytes) -> None:
    async with ScriptedServer({b"PING": b"+PONG\r\n"}) as server:
        server.close_after = refused
        target = server_of(server.url)
        for opened in (3, 4):  # with and without it, and once more to be sure; the second time that is known
            connection = await target.open_connection()
            assert not connection.traits.has_transactions
            assert connection.is_reusable
            assert server.connections == opened
            connection.close()


async def test_a_transaction_that_the_user_may_begin_and_not_end_is_left_by_a_new_connection() -> None:
    async with ScriptedServer({b"DISCARD": b"-NOPERM no\r\n", b"PING": b"+PONG\r\n"}) as server:
        async with connected(server.url) as connection:
            assert not connection.traits.has_transactions
        assert server.connections == 3


async def test_a_server_from_before_there_were_users_gets_the_password_alone() -> None:
    def auth(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if len(command) == 2 else b"-ERR wrong number of arguments for 'auth' command\r\n"

    async with ScriptedServer({b"AUTH": auth}) as server:
        async with connected(server.url.replace("redis://", "redis://default:pw@")) as connection:
            assert connection.is_reusable
        assert server.commands[:2] == [[b"AUTH", b"default", b"pw"], [b"AUTH", b"pw"]]


async def test_database_0_is_never_selected() -> None:
    async with ScriptedServer({}) as server:
        for path in ("", "/0", "?db=0"):
            async with ConnectorManager(server.url + path, config=QUICK) as manager:
                await manager.create_connector().ping()
        async with ConnectorManager(f"{server.url}/1", config=QUICK) as manager:
            await manager.create_connector().ping()
    assert [command for command in server.commands if command[0] == b"SELECT"] == [[b"SELECT", b"1"]]


# -------------------------------------------------------------------------------------------- what may change


async def test_a_password_file_is_read_again_for_every_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    with ValkeyServer(password="first") as server, server.client() as client:
        url = f"redis://{server.host}:{server.port}?password_file={file}"
        async with ConnectorManager(url, config=QUICK) as manager:
            connector = manager.create_connector()
            await connector.ping()
            client.config_set("requirepass", "second")
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            file.write_text("second\n")
            await connector.ping()
            file.unlink()
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with pytest.raises(AuthenticationError, match=r"password_file= cannot be read \(FileNotFoundError\)"):
                await connector.ping()


async def test_a_password_that_changes_between_the_reading_and_the_login_is_read_once_more(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("old\n")

    def auth(command: list[bytes]) -> bytes:
        file.write_text("new\n")
        return b"+OK\r\n" if command[-1] == b"new" else b"-WRONGPASS invalid username-password pair\r\n"

    async with ScriptedServer({b"AUTH": auth}) as server:
        async with connected(server.url, password_file=str(file)) as connection:
            assert connection.is_reusable
        assert [command[1] for command in server.commands if command[0] == b"AUTH"] == [b"old", b"new"]


async def test_a_wrong_password_file_is_tried_once(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("wrong\n")
    async with ScriptedServer({b"AUTH": b"-WRONGPASS invalid username-password pair\r\n"}) as server:
        with pytest.raises(AuthenticationError):
            async with connected(server.url, password_file=str(file)):
                pass
        assert server.connections == 1


@pytest.mark.tls
@pytest.mark.skipif(not RedisServer.available(), reason="no redis-server with TLS is installed")
async def test_the_ca_file_and_the_clients_certificate_are_read_again_when_they_have_changed(tmp_path: Path) -> None:
    ca_file, cert_file = tmp_path / "ca.pem", tmp_path / "client.pem"
    ours = trustme.CA()
    ours.cert_pem.write_to_path(cert_file)  # a certificate without a key cannot be used
    with RedisServer(tls=True) as server:
        trustme.CA().cert_pem.write_to_path(ca_file)
        url = f"{server.url('rediss')}?ca_file={ca_file}"
        async with ConnectorManager(url, config=QUICK) as manager:
            connector = manager.create_connector()
            with pytest.raises(CertificateError, match="does not verify"):
                await connector.ping()
            shutil.copy(server.ca_file, ca_file)
            await connector.ping()
        async with ConnectorManager(f"{url}&cert_file={cert_file}", config=QUICK) as manager:
            connector = manager.create_connector()
            with pytest.raises(CertificateError, match="the cert_file"):
                await connector.ping()
            ours.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(cert_file)
            await connector.ping()


async def test_after_a_failover_the_next_put_finds_the_new_primary_though_the_old_one_kept_its_connections() -> None:
    async with switching_address() as (address, old, new):
        async with ConnectorManager(address.url, config=QUICK) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                await asyncio.gather(*(connector.put("k", obj) for _ in range(8)))  # every connection of the pool
                address.lead_to(new)
                demote(old, new)
                with pytest.raises(ReadOnlyStoreError):
                    await connector.put("after", obj)
                await asyncio.gather(*(connector.put(f"after-{number}", obj) for number in range(8)))
            assert all(await connector.batched_exists([f"after-{number}" for number in range(8)]))
        with new.client() as client:
            assert client.dbsize() >= 8


async def test_a_retry_inside_the_deadline_finds_the_new_primary() -> None:
    async with switching_address() as (address, old, new):
        config = ConnectorConfig.load(operation_timeout=5, max_local_cpu_bytes=64 << 20)
        async with ConnectorManager(address.url, config=config) as manager:
            connector = manager.create_connector()
            for nbytes in (4096, 9 << 20):
                with chunk(manager.local_cpu_backend, "k", nbytes) as obj:
                    await connector.put("k", obj)
            address.lead_to(new)
            demote(old, new)
            for nbytes in (4096, 9 << 20):
                with chunk(manager.local_cpu_backend, "k", nbytes) as obj:
                    await connector.put("k", obj)
                assert holds(await connector.get("k"), "k")


async def test_a_url_that_leads_to_a_replica_for_good_serves_gets_over_lasting_connections() -> None:
    with ValkeyServer() as primary, ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
        with FaultProxy(replica.host, replica.port) as proxy:
            async with ConnectorManager(f"redis://{proxy.host}:{proxy.port}?pool_size=1", config=QUICK) as manager:
                connector = manager.create_connector()
                with chunk(manager.local_cpu_backend, "k", 4096) as obj:
                    for _ in range(
                        2
                    ):  # the first refusal ends the first tenure, and the second comes too soon after it
                        with pytest.raises(ReadOnlyStoreError, match="point the URL at the primary"):
                            await connector.put("k", obj)
                opened = proxy.connections
                for _ in range(20):
                    assert await connector.get("k") is None
                assert proxy.connections <= opened + 1
