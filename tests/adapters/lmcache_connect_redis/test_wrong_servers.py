"""A server that is not the right one any more keeps its connections: what it answers has the name resolved again.

All are real servers: a replica without its primary, one that loads, one that takes no writes, and a node of a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
import redis.exceptions

from lmcache_connect import ConnectorConfig, ConnectorManager, ManagedConnector, MemoryObj, StoreError
from lmcache_connect.errors import ReadOnlyStoreError, StoreLoadingError, StoreUnavailableError, WrongNodeError
from lmcache_connect.testing import ClusterServers, RedisServer, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer

from .address import Address
from .chunks import chunk, holds

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

ONCE = ConnectorConfig.load(operation_timeout=5, retries=0, max_local_cpu_bytes=64 << 20)
Kind = type[ValkeyServer] | type[RedisServer]
Call = Callable[[ManagedConnector, MemoryObj], Awaitable[object]]


@pytest.fixture(params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = ValkeyServer if request.param == "valkey" else RedisServer
    if not found.available():
        pytest.skip(f"{request.param}: no such server on this machine")
    return found


@contextmanager
def pair(kind: Kind, **directives: str) -> Iterator[tuple[StoreServer, StoreServer]]:
    """Two servers. The first has further directives."""
    with kind(config={name.replace("_", "-"): value for name, value in directives.items()}) as old, kind() as new:
        yield old, new


async def look_up(connector: ManagedConnector, obj: MemoryObj) -> object:
    return await connector.exists("there")


async def get(connector: ManagedConnector, obj: MemoryObj) -> object:
    return holds(await connector.get("there"), "there")


async def put(connector: ManagedConnector, obj: MemoryObj) -> object:
    await connector.put("more", obj)
    return True


async def only_the_new_server_answers_soon(
    address: Address, new: StoreServer, demote: Callable[[], None], call: Call, expected: type[StoreError]
) -> None:
    """Asserts that after `demote` calls find the new server, and that on the way there they fail as expected alone."""
    async with ConnectorManager(new.url(), config=ONCE) as manager:
        with chunk(manager.local_cpu_backend, "there", 4096) as obj:
            await manager.create_connector().put("there", obj)
    async with ConnectorManager(f"{address.url}?pool_size=1", config=ONCE) as manager:
        connector = manager.create_connector()
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            await connector.put("k", obj)
            assert await connector.exists("k")
            assert holds(await connector.get("k"), "k")
            address.lead_to(new)
            demote()
            failures: list[StoreError] = []
            with anyio.fail_after(5):
                while True:
                    try:
                        if await call(connector, obj):
                            break
                    except StoreError as error:
                        failures.append(error)
                    await anyio.sleep(0.02)
            assert [type(error) for error in failures] in ([], [expected]), failures
            assert await call(connector, obj)


@pytest.mark.parametrize("call", [look_up, get, put])
async def test_a_replica_that_has_lost_its_primary(kind: Kind, call: Call) -> None:
    with pair(kind, replica_serve_stale_data="no") as (old, new):

        def demote() -> None:
            with old.client() as client:
                client.execute_command("REPLICAOF", "127.0.0.1", "1")

        expected = ReadOnlyStoreError if call is put else StoreUnavailableError
        async with Address(old) as address:
            await only_the_new_server_answers_soon(address, new, demote, call, expected)


@pytest.mark.parametrize("call", [pytest.param(look_up, marks=pytest.mark.long), get, put])
async def test_a_server_that_loads_what_its_new_primary_has(kind: Kind, call: Call) -> None:
    with pair(kind, loading_process_events_interval_bytes="1024", key_load_delay="50000") as (old, new):
        with new.client() as client:
            client.config_set("repl-diskless-sync-delay", "0")
            for number in range(300):  # 15 s
                client.set(f"other-{number}", "x" * 1024)

        def demote() -> None:
            with old.client() as client:
                client.replicaof(new.host, new.port)
                deadline = time.monotonic() + 10
                while time.monotonic() < deadline:
                    try:
                        client.ping()
                    except redis.exceptions.BusyLoadingError:
                        return
            pytest.fail("it does not load")

        expected = ReadOnlyStoreError if call is put else StoreLoadingError
        async with Address(old) as address:
            await only_the_new_server_answers_soon(address, new, demote, call, expected)
        old.kill()  # it would load to the end first


async def test_no_connection_to_a_server_that_is_loading_is_kept(kind: Kind) -> None:
    slow = {"loading-process-events-interval-bytes": "1024", "key-load-delay": "50000"}
    with kind(config=slow) as loading, kind() as ready:
        with loading.client() as client:
            for number in range(40):  # 2 s
                client.set(f"other-{number}", "x" * 1024)
            client.save()
        loading.kill()
        async with Address(loading) as address, anyio.create_task_group() as group:
            group.start_soon(anyio.to_thread.run_sync, loading.restart)
            async with ConnectorManager(address.url, config=ONCE) as manager:
                connector = manager.create_connector()
                with anyio.fail_after(10):
                    while True:
                        try:
                            await connector.exists("k")
                        except StoreLoadingError:
                            break
                        except StoreUnavailableError:  # not even listening yet
                            await anyio.sleep(0.02)
                address.lead_to(ready)
                assert not await connector.exists("k")


@pytest.mark.parametrize("call", [pytest.param(look_up, marks=pytest.mark.long), get, put])
async def test_a_node_of_a_cluster_that_has_other_slots(call: Call) -> None:
    with ClusterServers(replicas_each=0) as cluster, ValkeyServer() as plain:
        async with ConnectorManager(plain.url(), config=ONCE) as manager:
            with chunk(manager.local_cpu_backend, "there", 4096) as obj:
                await manager.create_connector().put("there", obj)
        for node in cluster.servers:
            async with Address(node) as address:
                async with ConnectorManager(address.url, config=ONCE) as manager:
                    connector = manager.create_connector()
                    with chunk(manager.local_cpu_backend, "more", 4096) as obj:
                        try:
                            await call(connector, obj)
                        except WrongNodeError:
                            address.lead_to(plain)
                            assert await call(connector, obj)
                            return
    pytest.fail("no node said MOVED")
