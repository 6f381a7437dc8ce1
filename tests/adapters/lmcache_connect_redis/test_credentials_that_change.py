"""Passwords that are rotated and tokens that expire, on real servers, while calls go on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LMCacheConnectError
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.cluster import ClusterServers
from lmcache_connect.testing.servers.redis import RedisServer, StoreServer
from lmcache_connect.testing.servers.ring import RingServers
from lmcache_connect.testing.servers.sentinel import SentinelServers
from lmcache_connect.testing.servers.server_group import ServerGroup

from . import logins
from .chunks import chunk, holds
from .scripted_login import ScriptedLogin
from .scripted_server import ScriptedServer
from .token_issuer import TokenIssuer

pytestmark = pytest.mark.asyncio

OPTION = f"?credentials={logins.MODULE}:login"
PAUSE = 0.005
"""Seconds."""


@asynccontextmanager
async def managed(url: str, answer: Callable[[], Any] | None = None, **settings: Any) -> AsyncIterator[Any]:
    """A manager whose URL may name the callables of `logins`."""
    if answer is not None:
        logins.answers["login"] = answer
    given = {"operation_timeout": 3, "max_local_cpu_bytes": 128 << 20, "allowed_modules": [logins.MODULE], **settings}
    async with ConnectorManager(url, config=ConnectorConfig.load(**given)) as manager:
        yield manager


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as started:
        yield started


def live_connections(server: StoreServer) -> dict[str, str]:
    """The connections of the connector by number, and the user that each is logged in as."""
    with server.client() as client:
        return {found["id"]: found["user"] for found in client.client_list() if found["name"] == "lmcache-connect"}


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Waits for a condition."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        await asyncio.sleep(0.01)


class Load:
    """Puts and gets of small and of large chunks, single and in batches, in tasks and a thread, until it is told.

    Each of them pauses after a round, so that other tests get on beside this one.
    """

    def __init__(self, manager: ConnectorManager) -> None:
        self._manager = manager
        self._connector = manager.create_connector()
        self._is_over = False
        self.rounds: dict[str, int] = {}

    async def __aenter__(self) -> Load:
        jobs = [self._alone("small", 4096), self._alone("small-too", 40_000), self._alone("large", 2 << 20)]
        jobs += [self._together("batch", 16, 4096), self._together("large-batch", 3, 3 << 20), self._looking_up()]
        self._tasks = [asyncio.create_task(job) for job in jobs]
        self._tasks.append(asyncio.create_task(asyncio.to_thread(self._in_thread)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)
        assert len(self.rounds) == len(self._tasks)

    def _counted(self, name: str) -> None:
        self.rounds[name] = self.rounds.get(name, 0) + 1

    async def _round_over(self, name: str) -> None:
        self._counted(name)
        await asyncio.sleep(PAUSE)

    async def _alone(self, key: str, nbytes: int) -> None:
        while not self._is_over:
            with chunk(self._manager.local_cpu_backend, key, nbytes) as obj:
                await self._connector.put(key, obj)
            assert holds(await self._connector.get(key), key)
            await self._round_over(key)

    async def _together(self, name: str, count: int, nbytes: int) -> None:
        keys = [f"{name}-{number}" for number in range(count)]
        while not self._is_over:
            chunks = [chunk(self._manager.local_cpu_backend, key, nbytes) for key in keys]
            await self._connector.batched_put(keys, chunks)
            for obj in chunks:
                obj.ref_count_down()
            found = await self._connector.batched_get(keys)
            assert [holds(obj, key) for key, obj in zip(keys, found, strict=True)] == [True] * count
            await self._round_over(name)

    async def _looking_up(self) -> None:
        while not self._is_over:
            assert not await self._connector.exists("missing")
            await self._round_over("look-ups")

    def _in_thread(self) -> None:
        with chunk(self._manager.local_cpu_backend, "thread", 4096) as obj:
            self._connector.sync.put("thread", obj)
        while not self._is_over:
            assert holds(self._connector.sync.get("thread"), "thread")
            assert self._connector.sync.exists("thread")
            self._counted("thread")
            time.sleep(PAUSE)


# ----------------------------------------------------------------------------------------------- tokens that expire


async def test_tokens_that_expire_every_two_seconds_under_load_cost_no_call(server: ValkeyServer) -> None:
    with TokenIssuer(server, seconds=2) as issuer:
        async with managed(server.url() + OPTION, issuer, retries=0) as manager, Load(manager):
            await until(lambda: issuer.forgotten >= 1)
            before = live_connections(server)
            await until(lambda: issuer.forgotten >= 3)
            now = live_connections(server)
        assert not set(before.values()) & set(now.values())
        # The server has cut every connection that had not logged in again.
        assert len(before.keys() & now.keys()) >= 3


async def test_a_connection_that_is_never_without_requests_logs_in_between_two_of_them(server: ValkeyServer) -> None:
    with TokenIssuer(server, seconds=2) as issuer:
        async with managed(server.url("redis") + f"{OPTION}&pool_size=1", issuer, retries=0) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "crowd", 200_000) as obj:
                await connector.put("crowd", obj)
            is_over = False

            async def get_again_and_again() -> None:
                while not is_over:
                    assert holds(await connector.get("crowd"), "crowd")

            crowd = [asyncio.create_task(get_again_and_again()) for _ in range(32)]
            await until(lambda: issuer.forgotten >= 2)
            is_over = True
            await asyncio.gather(*crowd)


async def test_an_idle_connection_logs_in_again_at_its_next_use_and_keeps_its_database(server: ValkeyServer) -> None:
    script = ScriptedLogin(("default", "any-1", 0.4), ("worker", "right-2", 900))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">right-2", "~*", "+@all")
    async with managed(server.url(db=3) + OPTION, script) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
        assert await connector.exists("k")
        first = live_connections(server)
        assert [*first.values()] == ["default"] * 2
        await until(lambda: script.calls >= 2)
        await asyncio.sleep(0.4)  # no task of the connector does anything
        assert live_connections(server) == first
        assert await connector.exists("k")
        now = live_connections(server)
        assert now.keys() == first.keys()
        assert sorted(now.values()) == ["default", "worker"]
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
        assert live_connections(server) == dict.fromkeys(first, "worker")


async def test_a_threads_connection_gives_way_to_one_with_the_latest_login(
    server: ValkeyServer,
) -> None:
    script = ScriptedLogin(("default", "any-1", 1.0), ("worker", "right-2", 900))
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">right-2", "~*", "+@all")
    async with managed(server.url() + OPTION, script) as manager:
        connector = manager.create_connector()

        def used() -> dict[str, str]:
            connector.sync.exists("k")
            return live_connections(server)

        ends = time.monotonic() + 5
        while len(first := await asyncio.to_thread(used)) < 2:  # one of the event loop, and then one for threads
            assert time.monotonic() < ends
        assert set(first.values()) == {"default"}
        await until(lambda: script.calls >= 2)
        ends = time.monotonic() + 5
        while [*(await asyncio.to_thread(used)).values()] != ["worker", "worker"]:
            assert time.monotonic() < ends


async def test_a_server_that_refuses_the_new_token_closes_the_connection_and_no_call_fails(
    server: ValkeyServer,
) -> None:
    script = ScriptedLogin(("default", "any-1", 4), ("nobody", "wrong-2", 900))
    async with managed(server.url() + OPTION, script) as manager:
        connector = manager.create_connector()
        await connector.ping()
        first = live_connections(server)
        await until(lambda: script.calls >= 2)
        for _ in range(20):
            await connector.ping()
            await asyncio.sleep(0.02)
        now = live_connections(server)
        assert set(now.values()) == {"default"}
        assert set(now) != set(first)


@pytest.mark.parametrize(
    "group",
    [RingServers, partial(ClusterServers, replicas_each=0), pytest.param(SentinelServers, marks=pytest.mark.long)],
    ids=["ring", "cluster", "sentinel"],
)
async def test_a_new_token_serves_all_servers_under_load_and_is_asked_for_once(
    group: Callable[[], ServerGroup],
) -> None:
    with group() as servers, TokenIssuer(*servers.servers, seconds=2) as issuer:
        async with managed(servers.url() + OPTION, issuer, retries=0) as manager:
            async with Load(manager):
                await until(lambda: issuer.forgotten >= 2)
            assert issuer.issued <= issuer.forgotten + 2


@pytest.mark.tls
@pytest.mark.skipif(not RedisServer.available(), reason="no redis-server with TLS is installed")
async def test_connections_with_tls_log_in_again_under_load() -> None:
    with RedisServer(tls=True) as server, TokenIssuer(server, seconds=2) as issuer:
        url = f"{server.url('rediss')}{OPTION}&ca_file={server.ca_file}"
        async with managed(url, issuer, retries=0) as manager, Load(manager):
            await until(lambda: issuer.forgotten >= 1)
            before = live_connections(server)
            await until(lambda: issuer.forgotten >= 3)
            now = live_connections(server)
        assert not set(before.values()) & set(now.values())
        assert len(before.keys() & now.keys()) >= 3


async def test_a_token_that_the_issuer_cannot_renew_serves_until_it_expires_and_calls_recover(
    server: ValkeyServer,
) -> None:
    with TokenIssuer(server, seconds=1.2) as issuer:
        async with managed(server.url() + OPTION, issuer) as manager:
            connector = manager.create_connector()
            await connector.ping()
            issuer.fails = True
            with pytest.raises(AuthenticationError, match=r"no credentials: .* raised OSError"):
                while True:
                    await connector.ping()
                    await asyncio.sleep(0.01)
            assert issuer.forgotten == 1 or issuer.issued == 1
            issuer.fails = False
            ends = time.monotonic() + 8
            while True:
                try:
                    await connector.ping()
                    break
                except AuthenticationError:
                    assert time.monotonic() < ends
                    await asyncio.sleep(0.05)


async def test_a_connector_whose_callable_hangs_is_closed_in_time(server: ValkeyServer) -> None:
    over = threading.Event()
    try:
        async with managed(server.url() + OPTION, lambda: over.wait(30), close_grace=0.1) as manager:
            waiting = asyncio.create_task(manager.create_connector().ping())
            await asyncio.sleep(0.05)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        with pytest.raises(LMCacheConnectError):
            await asyncio.wait_for(waiting, 1)
    finally:
        over.set()


# --------------------------------------------------------------------------------------------- rotated passwords


async def test_a_password_that_is_rotated_again_and_again_under_load_costs_no_call() -> None:
    password = "the-password-0"
    with ValkeyServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", f">{password}", "~*", "&*", "+@all")
        url = server.url() + OPTION
        async with managed(url, lambda: ("worker", password), retries=0) as manager:
            connector = manager.create_connector()
            for number in range(1, 8):
                assert not await connector.exists("k")
                client.execute_command("ACL", "SETUSER", "worker", "resetpass", f">the-password-{number}")
                password = f"the-password-{number}"
                client.execute_command("CLIENT", "KILL", "USER", "worker", "SKIPME", "yes")


async def test_a_password_file_that_is_rotated_serves_open_and_new_connections(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("the-password-0\n")
    with ValkeyServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">the-password-0", "~*", "&*", "+@all")
        url = server.url().replace("redis://", "redis://worker@") + f"?password_file={file}"
        async with managed(url, retries=0) as manager:
            connector = manager.create_connector()
            await connector.ping()
            first = set(live_connections(server))
            for number in range(1, 6):
                client.execute_command("ACL", "SETUSER", "worker", "resetpass", f">the-password-{number}")
                await connector.ping()  # the open connection
                file.write_text(f"the-password-{number}\n")
                with chunk(manager.local_cpu_backend, "k", 64) as obj:
                    await connector.put("k", obj)  # a new one, at first
                assert first <= set(live_connections(server))


async def test_a_password_file_that_is_being_written_in_its_place_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("the-password\n")
    with ValkeyServer(password="the-password") as server, server.client() as client:
        async with managed(f"redis://{server.host}:{server.port}?password_file={file}", retries=0) as manager:
            connector = manager.create_connector()
            await connector.ping()
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            file.write_text("")
            asyncio.get_running_loop().call_later(0.05, file.write_text, "the-password\n")
            await connector.ping()
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            file.write_text("")
            with pytest.raises(AuthenticationError, match=r"password_file= cannot be read \(IndexError\)"):
                await connector.ping()


async def test_a_password_file_that_is_ahead_of_the_server_costs_no_call(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("the-password-0\n")
    with ValkeyServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">the-password-0", "~*", "&*", "+@all")
        url = server.url().replace("redis://", "redis://worker@") + f"?password_file={file}"
        async with managed(url, retries=0) as manager:
            connector = manager.create_connector()
            for number in range(1, 4):
                await connector.ping()
                file.write_text(f"the-password-{number}\n")
                client.execute_command("CLIENT", "KILL", "USER", "worker", "SKIPME", "yes")
                await connector.ping()  # logged in with the password before
                client.execute_command("ACL", "SETUSER", "worker", "resetpass", f">the-password-{number}")
                client.execute_command("CLIENT", "KILL", "USER", "worker", "SKIPME", "yes")
            client.execute_command("ACL", "SETUSER", "worker", "resetpass", ">another")
            client.execute_command("CLIENT", "KILL", "USER", "worker", "SKIPME", "yes")
            with pytest.raises(AuthenticationError):
                await connector.ping()


@pytest.mark.parametrize("source", ["file", "callable"])
async def test_a_password_that_the_servers_of_a_ring_learn_one_after_the_other_costs_no_call(
    tmp_path: Path, source: str
) -> None:
    file = tmp_path / "password"
    file.write_text("the-password-0\n")

    def change(server: StoreServer, number: int) -> None:
        with server.client() as client:
            rule = ("reset", "on", f">the-password-{number}", "~*", "&*", "+@all")
            client.execute_command("ACL", "SETUSER", "worker", *rule)

    with RingServers() as ring:
        for server in ring.servers:
            change(server, 0)
        is_file = source == "file"
        url = ring.url().replace("://", "://worker@") + f"?password_file={file}" if is_file else ring.url() + OPTION
        keys = [f"k{number}" for number in range(30)]
        async with managed(url, lambda: ("worker", file.read_text().strip()), retries=0) as manager:
            connector = manager.create_connector()
            assert await connector.batched_exists(keys) == [False] * 30
            for number in range(1, 4):
                file.write_text(f"the-password-{number}\n")
                for changed in ring.servers:
                    change(changed, number)
                    for server in ring.servers:
                        with server.client() as client:
                            client.execute_command("CLIENT", "KILL", "USER", "worker", "SKIPME", "yes")
                    for _ in range(3):
                        assert await connector.batched_exists(keys) == [False] * 30


async def test_a_wrong_password_is_an_authentication_error_at_once_and_a_right_one_ends_it() -> None:
    with ValkeyServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">right", "~*", "&*", "+@all")
        answer = ("worker", "not-the-right-one")
        async with managed(server.url() + OPTION, lambda: answer) as manager:
            connector = manager.create_connector()
            began = time.monotonic()
            with pytest.raises(AuthenticationError, match="the user or the password is wrong") as caught:
                await connector.ping()
            assert time.monotonic() - began < 2
            assert "not-the-right-one" not in str(caught.value)
            answer = ("worker", "right")
            ends = time.monotonic() + 6
            while True:
                try:
                    await connector.ping()
                    break
                except AuthenticationError:
                    assert time.monotonic() < ends
                    await asyncio.sleep(0.02)


async def test_a_right_that_the_user_lacks_is_an_authentication_error_and_costs_nothing_else() -> None:
    with ValkeyServer() as server, server.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">right", "~*", "&*", "+@all", "-set")
        async with managed(server.url() + OPTION, lambda: ("reader", "right")) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 64) as obj:
                with pytest.raises(AuthenticationError, match="the user may not do this"):
                    await connector.put("k", obj)
                assert not await connector.exists("k")
                client.execute_command("ACL", "SETUSER", "reader", "+set")
                await connector.put("k", obj)
            assert holds(await connector.get("k"), "k")


async def test_a_server_that_forgets_a_login_gets_it_again_and_the_call_is_repeated() -> None:
    async with ScriptedServer({}) as server:
        async with managed(server.url.replace("redis://", "redis://:right@")) as manager:
            connector = manager.create_connector()
            forgets = iter([b"-NOAUTH Authentication required.\r\n"])
            server.answers[b"EXISTS"] = lambda _: next(forgets, b":1\r\n")
            assert await connector.exists("k")
            assert [command for command in server.commands if command[0] == b"AUTH"] == [[b"AUTH", b"right"]] * 2
            server.answers[b"EXISTS"] = b"-NOAUTH Authentication required.\r\n"
            with pytest.raises(AuthenticationError, match="wants a password"):
                await connector.exists("k")
