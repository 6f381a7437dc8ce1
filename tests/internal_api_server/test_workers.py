"""Workers announce themselves in the Redis that they use, and disappear when they die."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

import anyio
import pytest

from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.contract import MAX_ANNOUNCEMENT_BYTES, MAX_WORKERS, WorkerAnnouncement
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.testing import ValkeyServer

from .conftest import Served, serving

SOON: Final = ConnectorConfig.load(announce_interval=0.2)
NEVER: Final = ConnectorConfig.load(announce_interval=0)
NAMES: Final = "lmcache-connect:workers"


@pytest.fixture
def store() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


async def workers(served: Served, count: int) -> list[dict[str, Any]]:
    """The announcements, as soon as there are so many."""
    with anyio.fail_after(15):
        while len(found := (await served.client.get("/controller/workers")).json()["workers"]) != count:
            await asyncio.sleep(0.02)
    return list(found)


OTHER: Final = """
import asyncio, sys
from lmcache_connect import AuthenticationError, ConnectorConfig, ConnectorManager
async def main():
    config = ConnectorConfig.load(announce_interval=0.2, max_local_cpu_bytes=1 << 20)
    async with ConnectorManager(sys.argv[1], config=config) as manager:
        connector = manager.create_connector()
        with manager.local_cpu_backend.allocate((100,), "uint8") as chunk:
            await connector.put("of-another-process", chunk)
        await connector.exists("of-another-process")
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_workers_of_other_processes_are_seen_and_disappear_when_they_die(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(store.url(), local_cpu_backend, SOON) as served:
        await served.put("a", "b", nbytes=50)
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", OTHER, store.url(), stdout=subprocess.PIPE)
        assert process.stdout is not None
        await process.stdout.readline()
        try:
            found = await workers(served, 2)
            (mine,) = [item for item in found if item["is_this"]]
            (other,) = [item["announcement"] for item in found if not item["is_this"]]
            assert mine["announcement"]["api"] == served.server.address
            assert mine["announcement"]["connectors"][0]["name"] == "redis-1"
            assert other["pid"] == process.pid
            assert other["api"] is None
            with anyio.fail_after(10):  # what it did is told with its next announcement
                while (stats := (await served.client.get("/controller/key-stats")).json())["counts"]["put"] != 3:
                    await asyncio.sleep(0.02)
            assert stats["worker_count"] == 2
            assert stats["counts"]["put_bytes"] == 200
            assert {worker["counts"]["put"] for worker in stats["workers"]} == {1, 2}
            (one_store,) = stats["stores"]
            assert (one_store["workers"], one_store["counts"]["put"]) == (2, 3)
            assert one_store["counts"]["lookup_hits"] == 1
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        (left,) = await workers(served, 1)
        assert left["is_this"]


BUSY: Final = """
import asyncio, sys
from lmcache_connect import ConnectorConfig, ConnectorManager
async def main():
    config = ConnectorConfig.load(announce_interval=0.2, max_local_cpu_bytes=4 << 20)
    async with ConnectorManager(sys.argv[1], config=config) as manager:
        connector = manager.create_connector()
        with manager.local_cpu_backend.allocate((1 << 20,), "uint8") as chunk:
            while True:
                await connector.put("a", chunk)
                for key in ("a", "b"):
                    if (found := await connector.get(key)) is not None:
                        found.ref_count_down()
                await asyncio.sleep(0.02)
asyncio.run(main())
"""


@pytest.mark.asyncio
async def test_a_server_beside_a_busy_process_shows_what_that_one_announces(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(store.url(), local_cpu_backend) as served:
        (shown,) = (await served.client.get("/status")).json()["stores"]
        assert shown["others"] is None
        others: dict[str, Any] = {}
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY, store.url())
        try:
            with anyio.fail_after(20):
                while not others.get("put_rate") or not others.get("get_rate"):
                    await asyncio.sleep(0.05)
                    (shown,) = (await served.client.get("/status")).json()["stores"]
                    others = shown["others"] or {}
            assert others["workers"] == 1
            assert 0 < others["put_rate"] < 200e6
            assert others["hits"] > 0
            assert others["misses"] > 0
            assert (others["errors"], others["failing_share"]) == (0, 0)
            assert shown["connector"]["statistics"] == {}
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()


@pytest.mark.asyncio
async def test_a_manager_that_is_closed_takes_its_announcement_back_at_once(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(store.url(), local_cpu_backend, SOON) as served:
        await served.connector.ping()
        await workers(served, 1)
        async with ConnectorManager(store.url(), config=SOON) as other:
            await other.create_connector().ping()
            await workers(served, 2)
        await workers(served, 1)
    with store.client() as client:
        assert client.keys("*") == []


@pytest.mark.asyncio
async def test_announcements_are_no_chunks(store: ValkeyServer, local_cpu_backend: LocalCPUBackend) -> None:
    async with serving(store.url(), local_cpu_backend, SOON) as served:
        await served.put("a")
        await workers(served, 1)
        assert await served.connector.list() == ["a"]
        assert [name async for name in served.connector.scan("lmcache")] == []
        body = {"prefix": "", "everything": True, "dry_run": False}
        cleared = (await served.client.post("/vllm/cache/clear", json=body)).json()
        assert cleared["locations"][0]["removed"] == 1
        with store.client() as client:
            assert client.exists(NAMES)


@pytest.mark.asyncio
async def test_tenants_with_a_prefix_see_their_own_workers(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with serving(f"{store.url()}?prefix=one", local_cpu_backend, SOON) as one:
        await one.connector.ping()
        async with ConnectorManager(f"{store.url()}?prefix=two", config=SOON) as two:
            await two.create_connector().ping()
            with store.client() as client, anyio.fail_after(10):
                while not client.exists(f"one:{NAMES}") or not client.exists(f"two:{NAMES}"):
                    await asyncio.sleep(0.02)
            (found,) = await workers(one, 1)
            assert found["is_this"]


@pytest.mark.asyncio
async def test_a_store_is_left_alone_until_the_application_has_used_it_and_by_those_who_do_not_announce(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(store.url(), None, local_cpu_backend, SOON) as unused:
        connector = unused.create_connector()
        assert unused.announcer is not None
        await unused.announcer.announce()
        async with ConnectorManager(store.url(), None, local_cpu_backend, NEVER) as silent:
            assert silent.announcer is None
            await silent.create_connector().ping()
        with store.client() as client:
            assert client.keys("*") == []
        assert connector.statistics() == {}


@pytest.mark.asyncio
async def test_a_store_that_refuses_announcements_is_told_once_and_fails_nothing(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    allowed = ("+get", "+exists", "+ping", "+client|setname")
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", *allowed)
    url = store.url().replace("redis://", "redis://reader:pw@")
    async with ConnectorManager(url, None, local_cpu_backend, SOON) as manager:
        connector = manager.create_connector()
        await connector.ping()
        assert manager.announcer is not None
        with caplog.at_level(logging.INFO, logger="lmcache_connect"):
            for _ in range(3):
                await manager.announcer.announce()
        refusals = [record for record in caplog.records if record.getMessage().startswith("announcement_refused")]
        assert len(refusals) == 1
        assert not await connector.exists("a")
        assert connector.breaker_state.value == "closed"


@pytest.mark.asyncio
async def test_an_announcement_whose_expiry_the_store_refuses_is_not_left_for_ever(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "w", "on", ">pw", "~*", "+@all", "-pexpire")
        url = store.url().replace("redis://", "redis://w:pw@")
        async with ConnectorManager(url, None, local_cpu_backend, SOON) as manager:
            connector = manager.create_connector()
            await connector.ping()
            with pytest.raises(AuthenticationError, match="pexpire"):
                await connector.announce("a-worker", b"a document", 30)
            assert client.keys("*") == []


@pytest.mark.asyncio
async def test_a_user_who_may_only_read_sees_the_workers_and_leaves_the_names_of_dead_ones(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    with store.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read")
        async with ConnectorManager(store.url(), None, local_cpu_backend, NEVER) as manager:
            await manager.create_connector().announce("alive", b"a document", 30)
        client.sadd(NAMES, "dead")
        url = store.url().replace("redis://", "redis://reader:pw@")
        async with ConnectorManager(url, None, local_cpu_backend, NEVER) as manager:
            assert await manager.create_connector().announced() == [b"a document"]
        assert set(client.smembers(NAMES)) == {b"alive", b"dead"}


@pytest.mark.asyncio
async def test_a_store_that_hangs_holds_up_neither_the_announcer_nor_the_end(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(announce_interval=0.2, close_grace=0.2, operation_timeout=1)
    manager = ConnectorManager(store.url(), None, local_cpu_backend, config)
    connector = manager.create_connector()
    await connector.ping()
    assert manager.announcer is not None
    await manager.announcer.announce()
    store.pause()
    try:
        with anyio.fail_after(5):
            await manager.announcer.announce()
        with anyio.fail_after(8):
            await manager.close()
    finally:
        store.resume()


@pytest.mark.asyncio
async def test_what_others_wrote_in_place_of_an_announcement_is_not_believed(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    good = WorkerAnnouncement(worker="good", host="h", pid=1, version="1", started=1, announced=1)
    documents: dict[str, bytes] = {
        "good": good.encode(),
        "no-json": b"{",
        "a-list": b"[]",
        "no-worker": b"{}",
        "negative": good.encode().replace(b'"pid":1', b'"pid":-1'),
        "endless": good.encode().replace(b'"started":1.0', b'"started":1e999'),
        "long-name": json.dumps({**good.model_dump(mode="json"), "host": "h" * 1000}).encode(),
        "a-slash": json.dumps({**good.model_dump(mode="json"), "worker": "../x"}).encode(),
    }
    with store.client() as client:
        for name, document in documents.items():
            client.hset(f"lmcache-connect:worker:{name}", "announcement", document)
        client.hset("lmcache-connect:worker:another-field", "other", b"x")
        client.sadd(NAMES, *documents, "another-field", "expired", "n" * 100)
        async with serving(store.url(), local_cpu_backend, NEVER) as served:
            answer = await served.client.get("/controller/workers")
            assert [item["announcement"]["worker"] for item in answer.json()["workers"]] == ["good"]
            assert answer.json()["unread"] == []
            assert not client.sismember(NAMES, "expired")
            assert client.sismember(NAMES, "good")


@pytest.mark.parametrize("what", ["wrong type", "long name", "large document", "many names"])
@pytest.mark.asyncio
async def test_announcements_beyond_every_bound_are_an_error_and_nothing_is_allocated_for_them(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend, what: str
) -> None:
    with store.client() as client:
        match what:
            case "wrong type":
                client.set(NAMES, "x")
            case "long name":
                client.sadd(NAMES, "n" * 1000)
            case "large document":
                client.sadd(NAMES, "a")
                client.hset("lmcache-connect:worker:a", "announcement", b"x" * (MAX_ANNOUNCEMENT_BYTES + 1))
            case _:
                client.sadd(NAMES, *(f"{number:0100}" for number in range(MAX_WORKERS * 10)))
    async with serving(store.url(), local_cpu_backend, NEVER) as served:
        answer = (await served.client.get("/controller/workers")).json()
        assert answer == {"workers": [], "unread": ["redis-1"]}
        assert (await served.client.get("/controller/key-stats")).json()["worker_count"] == 0
        assert not await served.connector.exists("a")


def test_an_announcement_that_would_be_too_large_leaves_its_statistics_out() -> None:
    from lmcache_connect.contract import AnnouncedConnector, AnnouncedStatistics

    counted = {f"an-operation-with-a-long-name-{number}": AnnouncedStatistics(calls=10**15) for number in range(64)}
    connectors = tuple(
        AnnouncedConnector(name=f"c{number}", store="s", kind="k", breaker="closed", statistics=counted)
        for number in range(64)
    )
    made = WorkerAnnouncement(worker="w", host="h", pid=1, version="1", started=1, announced=1, connectors=connectors)
    assert len(made.encode()) <= MAX_ANNOUNCEMENT_BYTES
    decoded = WorkerAnnouncement.decode(made.encode())
    assert decoded is not None
    assert len(decoded.connectors) == 64


@pytest.mark.asyncio
async def test_using_a_store_writes_nothing_but_chunks_into_it_unless_announcements_are_asked_for(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(store.url(), None, local_cpu_backend) as manager:
        await manager.create_connector().ping()
        announcer = manager.announcer
        assert announcer is not None
        assert not announcer.is_wanted
        await announcer.announce()
        with store.client() as client:
            assert client.keys("*") == []


@pytest.mark.asyncio
async def test_an_internal_api_announces_its_manager_for_as_long_as_it_runs(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(store.url(), None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        await connector.ping()
        announcer = manager.announcer
        assert announcer is not None
        with store.client() as client:
            for _ in range(2):
                async with InternalAPIServer(manager, APIServerConfig.load()):
                    await announcer.announce()
                    assert client.exists(NAMES)
                await announcer.announce()
                assert client.keys("*") == []
        assert not connector.is_closed


@pytest.mark.asyncio
async def test_an_internal_api_that_starts_before_the_first_connector_announces_it_by_itself(
    store: ValkeyServer, local_cpu_backend: LocalCPUBackend
) -> None:
    async with (
        ConnectorManager(store.url(), None, local_cpu_backend) as manager,
        InternalAPIServer(manager, APIServerConfig.load()) as server,
    ):
        await manager.create_connector().ping()
        with store.client() as client, anyio.fail_after(10):
            while not client.exists(NAMES):
                await asyncio.sleep(0.02)
        assert manager.announcer is not None
        assert manager.announcer.describe().api == server.address
