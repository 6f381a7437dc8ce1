"""Connectors that were written against other rules are held to this toolkit's."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import (
    CacheEngineKey,
    ConnectorConfig,
    ConnectorManager,
    Key,
    LocalCPUBackend,
    ManagedConnector,
    OperationTimeoutError,
    UnsupportedOperationError,
)
from lmcache_connect.errors import ConnectorContractError
from lmcache_connect.foreign.connector import ForeignConnector

from ..adapters.lmcache_connect_redis.chunks import chunk, holds
from . import gate

pytestmark = pytest.mark.asyncio

KEYS: list[Key] = [CacheEngineKey("model", 2, 0, 0xAB, "bfloat16"), "model@2@1@ff@bfloat16", "any other name"]


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[ConnectorManager]:
    with LocalCPUBackend(8 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend) as manager:
            yield manager
        gc.collect()
        assert backend.statistics().reserved == 0, backend.statistics()


async def connected(manager: ConnectorManager, name: str) -> tuple[ManagedConnector, Any]:
    connector = await manager.open_connector(f"external://h:0/tests.foreign.strangers.duck/?connector_name={name}")
    assert isinstance(connector.wrapped, ForeignConnector)
    return connector, connector.wrapped.foreign


async def put(manager: ConnectorManager, connector: ManagedConnector, key: Key) -> None:
    with chunk(manager.local_cpu_backend, str(key), 4096) as obj:
        await connector.put(key, obj)
        assert obj.get_ref_count() == 1


@pytest.mark.parametrize("name", ["Duck", "Hoarder", "Plain", "Holes"])
async def test_chunks_go_there_and_back_under_keys_of_every_kind(manager: ConnectorManager, name: str) -> None:
    connector, _ = await connected(manager, name)
    for key in KEYS:
        assert not await connector.exists(key)
        await put(manager, connector, key)
        assert await connector.exists(key)
        assert holds(await connector.get(key), str(key))


async def test_a_reference_that_put_keeps_is_taken_back(manager: ConnectorManager) -> None:
    connector, hoarder = await connected(manager, "Hoarder")
    await put(manager, connector, "k")
    assert [obj.is_valid() for obj in hoarder.kept] == [False]


async def test_a_list_that_is_none_is_empty(manager: ConnectorManager) -> None:
    connector, _ = await connected(manager, "Duck")
    assert await connector.list() == []


async def test_remove_is_found_under_its_other_name_or_said_to_be_missing(manager: ConnectorManager) -> None:
    plain, _ = await connected(manager, "Plain")
    await put(manager, plain, "k")
    assert await plain.remove("k")
    assert not await plain.remove("k")
    duck, _ = await connected(manager, "Duck")
    with pytest.raises(UnsupportedOperationError):
        await duck.remove("k")


async def test_a_damaged_record_is_removed_by_the_objects_own_second_look_and_by_nothing_else(
    manager: ConnectorManager,
) -> None:
    careful, it = await connected(manager, "Careful")
    assert await careful.get("k") is None
    assert it.looked_at == ["k"]
    assert careful.metrics.removals == {("checksum", "removed"): 1}
    careless, it = await connected(manager, "Damaged")
    await put(manager, careless, "k")
    assert await careless.get("k") is None
    assert it.stored
    assert careless.metrics.removals == {("checksum", "unsupported"): 1}


async def test_a_batch_with_holes_has_one_slot_per_key_all_the_same(manager: ConnectorManager) -> None:
    connector, _ = await connected(manager, "Holes")
    await put(manager, connector, "b")
    found = await connector.batched_get(["a", "b", "c"])
    assert [obj is not None for obj in found] == [False, True, False]
    assert holds(found[1], "b")


async def test_bytes_for_a_chunk_break_the_contract(manager: ConnectorManager) -> None:
    connector, _ = await connected(manager, "Bytes")
    with pytest.raises(ConnectorContractError, match="returned a bytes"):
        await connector.get("k")


async def test_a_plain_get_that_blocks_ends_at_the_deadline_and_what_it_brings_later_is_given_back() -> None:
    gate.OPEN.clear()
    try:
        with LocalCPUBackend(1 << 20) as backend:
            config = ConnectorConfig.load(operation_timeout=0.2, min_throughput=1 << 40, retries=0)
            async with ConnectorManager(local_cpu_backend=backend, config=config) as short:
                connector, _ = await connected(short, "Blocking")
                await put(short, connector, "k")
                with pytest.raises(OperationTimeoutError):
                    await connector.get("k")
                gate.OPEN.set()
                while not backend.statistics().allocations > 1 or backend.statistics().reserved:
                    await asyncio.sleep(0)
    finally:
        gate.OPEN.set()


async def test_a_plain_put_that_is_left_behind_reads_memory_of_its_own_until_its_thread_has_ended(
    manager: ConnectorManager,
) -> None:
    gate.OPEN.clear()
    try:
        connector, foreign = await connected(manager, "SlowReader")
        with chunk(manager.local_cpu_backend, "k", 4096) as obj:
            before = bytes(obj.byte_array)
            putting = asyncio.create_task(connector.put("k", obj))
            while not connector.in_flight:
                await asyncio.sleep(0)
            while not foreign.began:
                await asyncio.sleep(0)
            putting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await putting
            lane = connector.context.lane
            assert (lane.abandoned_calls, lane.abandoned_bytes) == (1, 4096)
            obj.byte_array[:] = bytes(4096)  # it is the caller's again
            with chunk(manager.local_cpu_backend, "other", 4096):
                gate.OPEN.set()
                while lane.abandoned_calls:
                    await asyncio.sleep(0)
            assert [payload for _, payload in foreign.stored.values()] == [before]
        while manager.local_cpu_backend.statistics().reserved:
            await asyncio.sleep(0)
    finally:
        gate.OPEN.set()


async def test_an_adapter_written_for_lmcache_that_makes_no_connector_is_named(manager: ConnectorManager) -> None:
    class Careless:
        schema = "careless://"

        def can_parse(self, url: str) -> bool:
            return url.startswith(self.schema)

        def create_connector(self, context: Any) -> Any:
            return object()

    manager.register(Careless)  # type: ignore[arg-type]
    lacking = r"Careless\.create_connector returned a object, which has no exists, get, put, list, close\(\)"
    with pytest.raises(ConnectorContractError, match=lacking):
        manager.create_connector("careless://h")


async def test_it_is_closed_once(manager: ConnectorManager) -> None:
    connector, duck = await connected(manager, "Duck")
    await connector.close()
    await connector.close()
    assert duck.closed == 1
