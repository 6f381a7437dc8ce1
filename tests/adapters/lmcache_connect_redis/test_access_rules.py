"""The user of the server that `docs/operating.md` gives can do everything, for its own prefix alone."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.oversight import clear
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import RedisServer, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

OPERATING: Final = Path(__file__).parents[3] / "docs" / "operating.md"
CONFIG: Final = ConnectorConfig.load(operation_timeout=5, retries=0)
SIZES: Final = {"small": 4096, "large": 6 << 20}


Kind = type[ValkeyServer] | type[RedisServer]


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    kind: Kind = ValkeyServer if request.param == "valkey" else RedisServer
    if not kind.available():
        pytest.skip(f"{request.param}: no such server on this machine")
    with kind() as started:
        yield started


@contextmanager
def user(server: StoreServer, *rules: str) -> Iterator[str]:
    """The URL of a user who may do what the rules say."""
    server.flush()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "kv", "reset", *rules)
        yield f"redis://kv:password@{server.host}:{server.port}"
        client.execute_command("ACL", "DELUSER", "kv")


@pytest.fixture
def url(server: StoreServer) -> Iterator[str]:
    """The URL of the documented user."""
    found = re.search(r"^ACL SETUSER kv (.*)$", OPERATING.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    with user(server, *found[1].split()) as made:
        yield made


def commands_of(operation: str) -> list[str]:
    """The commands that the page names for an operation."""
    for row in re.finditer(r"^\| ([^|]*) \| ([^|]*) \|$", OPERATING.read_text("utf-8"), re.MULTILINE):
        if operation in re.findall(r"[a-z]+(?: [a-z]+)*", row[1]) and (found := re.findall(r"`([A-Z]+)`", row[2])):
            return found
    raise AssertionError(f"the page names no commands for {operation}")


async def test_the_documented_user_can_do_every_operation(
    url: str, server: StoreServer, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with ConnectorManager(f"{url}?prefix=tenant", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for key, nbytes in SIZES.items():
            with chunk(local_cpu_backend, key, nbytes) as obj:
                await connector.put(key, obj)
        found = await connector.batched_get(list(SIZES))
        assert [holds(obj, key) for obj, key in zip(found, SIZES, strict=True)] == [True, True]
        del found
        [large] = chunk_names("tenant:", ["large"])
        with server.client() as client:
            assert client.type(large) == b"hash", "large chunks are striped for this user"
            client.hset(large, "2", (client.hget(large, "2") or b"")[:-1])
        assert await connector.batched_exists(list(SIZES)) == [True, True]
        assert sorted(await connector.list()) == sorted(SIZES)
        assert await connector.get("large") is None
        assert await connector.exists("large") is False, "a damaged chunk is removed for this user"
        assert await connector.remove("small") is True
        assert await connector.ping() == 0
        await connector.announce("worker", b"document", 60)
        assert await connector.announced() == [b"document"]
        await connector.withdraw("worker")
        assert await connector.announced() == []
        assert (await clear(connector, "")).is_complete
    assert "server_without" not in caplog.text
    with server.client() as client:
        assert client.keys("*") == []


async def test_the_documented_user_cannot_reach_another_prefix(url: str, local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager(f"{url}?prefix=other", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        for nbytes in SIZES.values():
            with chunk(local_cpu_backend, "k", nbytes) as obj:
                with pytest.raises(AuthenticationError):
                    await connector.put("k", obj)
        with pytest.raises(AuthenticationError):
            await connector.get("k")


async def put_all(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    for key, nbytes in SIZES.items():
        with chunk(backend, key, nbytes) as obj:
            await connector.put(key, obj)


async def try_put(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    await put_all(connector, backend)


async def try_exists(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    assert await connector.batched_exists([*SIZES, "none"]) == [True, True, False]


async def try_get(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    found = await connector.batched_get(list(SIZES))
    assert [holds(obj, key) for obj, key in zip(found, SIZES, strict=True)] == [True, True]


async def try_remove(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    assert [await connector.remove(key) for key in SIZES] == [True, True]
    assert await connector.batched_remove(["none"]) == [True]


async def try_list(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    assert sorted(await connector.list()) == sorted(SIZES)


async def try_ping(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    assert await connector.ping() == 0


async def try_clear(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    cleared = await clear(connector, "")
    assert cleared.is_complete
    assert cleared.removed == len(SIZES)
    assert not cleared.error


async def try_announcements(connector: ManagedConnector, backend: LocalCPUBackend) -> None:
    await connector.announce("worker", b"document", 60)
    assert await connector.announced() == [b"document"]
    await connector.withdraw("worker")


@pytest.mark.parametrize(
    ("operation", "less", "attempt"),
    [
        ("put", "", try_put),
        ("exists", "", try_exists),
        ("get", "", try_get),
        ("remove", "UNLINK", try_remove),
        ("remove", "DEL", try_remove),
        ("list", "", try_list),
        ("ping", "", try_ping),
        ("ping", "PING", try_ping),
        ("clear", "UNLINK", try_clear),
        ("clear", "DEL", try_clear),
        ("clear", "GETRANGE", try_clear),
        ("announcements", "", try_announcements),
    ],
)
async def test_each_operation_needs_no_more_than_the_page_says(
    server: StoreServer,
    local_cpu_backend: LocalCPUBackend,
    caplog: pytest.LogCaptureFixture,
    operation: str,
    less: str,
    attempt: Callable[[ManagedConnector, LocalCPUBackend], Awaitable[None]],
) -> None:
    caplog.set_level(logging.INFO)
    commands = commands_of(operation)
    assert not less or less in commands
    rules = [f"+{command.lower()}" for command in commands if command != less]
    with user(server, "on", ">password", "~tenant:*", *rules) as url:
        async with ConnectorManager(f"{server.url()}?prefix=tenant", None, local_cpu_backend, CONFIG) as manager:
            await put_all(manager.create_connector(), local_cpu_backend)
        with server.client() as client:
            client.set("tenant:vllm@model@0@1@abc", "what release 0.1 may have stored")
        async with ConnectorManager(f"{url}?prefix=tenant", None, local_cpu_backend, CONFIG) as manager:
            await attempt(manager.create_connector(), local_cpu_backend)
    assert ("outdated_unread" in caplog.text) == (less == "GETRANGE")
    assert ("server_without_transactions" in caplog.text) == (operation != "put")


async def test_niceties_that_are_refused_are_told_in_one_line(
    server: StoreServer, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with user(server, "on", ">password", "~*", "+get", "+set", "+exists", "+del") as url:
        async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
            connector = manager.create_connector()
            await asyncio.gather(*(put_all(connector, local_cpu_backend) for _ in range(4)))
            await try_exists(connector, local_cpu_backend)
            await try_get(connector, local_cpu_backend)
            await try_remove(connector, local_cpu_backend)
            await try_ping(connector, local_cpu_backend)
    assert caplog.text.count("server_without_niceties") == 1
    assert caplog.text.count("server_without_transactions") == 1
    assert "refused=CLIENT SETNAME, ROLE, UNLINK" in caplog.text
    assert "operation_failed" not in caplog.text
