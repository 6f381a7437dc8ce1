"""Connectors for trials and memory of their callers: what they log, verify, fail, and take their time for."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio

from lmcache_connect import (
    ChunkMetadata,
    ConnectorConfig,
    ConnectorManager,
    Key,
    LocalCPUBackend,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    WrappingConnector,
)
from lmcache_connect.contract import WrappingAdapter
from lmcache_connect.errors import ValueTooLargeError
from lmcache_connect.record import encode_views
from lmcache_connect_trials.audit_connector import AuditConnector
from lmcache_connect_trials.fault_connector import FaultConnector, InjectedFaultError
from lmcache_reference_connectors import memory

pytestmark = pytest.mark.asyncio

CONFIG = ConnectorConfig.load(operation_timeout=10, retries=0, breaker_failures=100_000)
MARK = 0x5A


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(32 << 20) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture
async def manager(backend: LocalCPUBackend) -> AsyncIterator[ConnectorManager]:
    memory._stores.clear()
    async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as made:
        yield made


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, Any]]:
    """The facts of every event of that name."""
    facts = (cast(dict[str, Any], getattr(record, "connect", {})) for record in caplog.records)
    return [each for each in facts if each.get("event") == name]


# ---------------------------------------------------------------------------------------------------------- audit


async def test_an_audit_tells_of_every_call_what_it_moved_and_how_it_ended(
    manager: ConnectorManager, caplog: pytest.LogCaptureFixture
) -> None:
    connector = manager.create_connector("audit+memory://audited")
    with caplog.at_level(logging.DEBUG, "lmcache_connect"):
        assert await connector.put_from("k", b"x" * 5000)
        assert await connector.get_into("k", bytearray(5000))
        assert not await connector.get_into("absent", bytearray(5000))
        await connector.batched_put_from(["a", "b"], [b"1", b"22"])
        await connector.batched_get_into(["a", "absent", "b"], [bytearray(1), bytearray(1), bytearray(2)])
    assert [
        (e["operation"], e.get("key"), e.get("keys"), e.get("bytes"), e["outcome"]) for e in told(caplog, "audit")
    ] == [
        ("put_from", "k", None, 5000, "yes"),
        ("get_into", "k", None, 5000, "yes"),
        ("get_into", "absent", None, None, "no"),
        ("batched_put_from", None, 2, 3, "2 of 2"),
        ("batched_get_into", None, 3, 3, "2 of 3"),
    ]
    assert [(e["operation"], e["key"], e["bytes"], e["outcome"]) for e in told(caplog, "audit_chunk")] == [
        ("batched_put_from", "a", 1, "stored"),
        ("batched_put_from", "b", 2, "stored"),
        ("batched_get_into", "a", 1, "hit"),
        ("batched_get_into", "absent", 0, "miss"),
        ("batched_get_into", "b", 2, "hit"),
    ]


async def test_an_audit_finds_a_chunk_that_verifies_and_is_not_what_was_put(
    manager: ConnectorManager, caplog: pytest.LogCaptureFixture
) -> None:
    connector = manager.create_connector("audit+memory://audited")
    sent = random.Random(1).randbytes(5 << 20)
    views = memoryview(sent)
    assert await connector.batched_put_from(["a", "b"], [[views[:999], views[999:]], views]) == [True, True]
    other = bytes(len(sent))  # a record of its own, checksum and all
    metadata = ChunkMetadata.of((len(sent),), "uint8")
    memory._stores["memory://audited"]["a"] = encode_views("a", metadata, [memoryview(other)])
    buffers = [bytearray(len(sent)) for _ in range(2)]
    assert await connector.get_into("a", buffers[0]) is False
    assert await connector.batched_get_into(["a", "b"], buffers) == [False, True]
    assert buffers[1] == sent
    assert connector.statistics()["get_into"].misses == {"corrupt:audit": 1}
    assert connector.statistics()["batched_get_into"].misses == {"corrupt:audit": 1}
    assert cast(AuditConnector, connector.wrapped).verdicts == {"mismatch": 2, "verified": 1}
    assert len(told(caplog, "audit_mismatch")) == 2


async def test_an_audit_compares_what_one_way_has_stored_with_what_the_other_way_brings(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("audit+memory://audited")
    obj = backend.allocate((100,), "uint8")
    assert obj is not None
    with obj:
        obj.byte_array[:] = b"x" * 100
        await connector.put("a", obj)
    await connector.put_from("b", b"y" * 100)
    assert await connector.get_into("a", bytearray(100))
    found = await connector.get("b")
    assert found is not None
    found.ref_count_down()
    assert cast(AuditConnector, connector.wrapped).verdicts == {"verified": 2}


# ---------------------------------------------------------------------------------------------------------- faults


async def test_faults_come_into_calls_with_memory_of_the_caller_where_they_are_named(
    manager: ConnectorManager,
) -> None:
    connector = manager.create_connector("fault+memory://f?fault_error_rate=1&fault_on=put_from,batched_get_into")
    with pytest.raises(InjectedFaultError, match="put_from"):
        await connector.put_from("a", b"x")
    assert await connector.batched_put_from(["a"], [b"x"]) == [True]
    assert await connector.get_into("a", bytearray(1))
    with pytest.raises(InjectedFaultError, match="batched_get_into"):
        await connector.batched_get_into(["a"], [bytearray(1)])


async def test_under_a_storm_of_faults_and_cancellations_no_true_is_false_and_no_memory_is_touched_late(
    manager: ConnectorManager,
) -> None:
    url = (
        "fault+mock://1/?peeking_latency=0.1&fault_error_rate=0.1&fault_reset_rate=0.3&fault_reset_within=0.003"
        "&fault_delay_rate=0.1&fault_delay=0.001&fault_seed=7"
    )
    connector = manager.create_connector(url)
    chance = random.Random(5)
    size = 3 << 20

    async def caller(name: int) -> int:
        buffer, trues = bytearray(size), 0
        for turn in range(12):
            key = f"{name}-{chance.randrange(3)}"
            pattern = bytes([name * 16 + turn]) * size
            buffer[:] = pattern
            put = asyncio.create_task(connector.put_from(key, [buffer[:0], memoryview(buffer)]))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.003)
                put.cancel()
            await asyncio.wait((put,))
            is_stored = not put.cancelled() and put.exception() is None
            if put.cancelled() or not is_stored:
                buffer[:] = bytes([MARK]) * size
                await asyncio.sleep(0)
            get = asyncio.create_task(connector.get_into(key, buffer))
            if chance.random() < 0.3:
                await asyncio.sleep(chance.random() * 0.003)
                get.cancel()
            await asyncio.wait((get,))
            if not get.cancelled() and get.exception() is None and get.result():
                trues += 1
                assert len(set(buffer)) == 1, "two chunks in one"
                if is_stored:
                    assert buffer == pattern
            buffer[:] = bytes([MARK]) * size
            await asyncio.sleep(0.001)
            assert set(buffer) == {MARK}
        return trues

    assert sum(await asyncio.gather(*(caller(name) for name in range(4)))) > 0
    assert set(cast(FaultConnector, connector.wrapped).injected) == {"error", "reset", "delay"}


# --------------------------------------------------------------------------------------------------- mock, blackhole


async def test_a_mock_store_takes_its_time_for_memory_of_the_caller_and_needs_no_arena(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("mock://1/?peeking_latency=20&read_throughput=1&write_throughput=1")
    sent = random.Random(2).randbytes(20 << 20)
    began = time.monotonic()
    assert await connector.put_from("a", sent)
    view = memoryview(bytearray(len(sent)))
    assert await connector.batched_get_into(["a", "none"], [[view[:77], view[77:]], bytearray(9)]) == [True, False]
    assert time.monotonic() - began > 2 * (0.02 + len(sent) / (1 << 30))
    assert view == sent
    assert backend.statistics().allocations == 0
    assert not await connector.get_into("a", bytearray(5))
    assert connector.statistics()["get_into"].misses == {"mismatch": 1}


async def test_a_mock_store_refuses_what_is_larger_than_itself_and_stores_nothing_of_the_batch(
    manager: ConnectorManager,
) -> None:
    connector = manager.create_connector("mock://0.001/")
    with pytest.raises(ValueTooLargeError):
        await connector.batched_put_from(["a", "b"], [b"x", bytes(2 << 20)])
    assert not await connector.exists("a")


async def test_a_black_hole_says_that_it_has_stored_nothing(manager: ConnectorManager) -> None:
    connector = manager.create_connector("blackhole://")
    assert await connector.put_from("a", b"x") is False
    assert await connector.batched_put_from(["a", "b"], [b"x", b"y"]) == [False, False]
    assert await connector.get_into("a", bytearray(1)) is False


# ------------------------------------------------------------------------------------------------- others' wrappers


class Sealed(WrappingConnector):
    """Stores other bytes than it is given, and inverts them again in a get: it knows of `get` and `put` alone."""

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        _invert(memory_obj)
        try:
            await self.wrapped.put(key, memory_obj)
        finally:
            _invert(memory_obj)

    async def get(self, key: Key) -> MemoryObj | None:
        if (obj := await self.wrapped.get(key)) is not None:
            _invert(obj)
        return obj

    # So that batches go through the two.
    batched_put = RemoteConnector.batched_put
    batched_get = RemoteConnector.batched_get


def _invert(obj: MemoryObj) -> None:
    obj.byte_array[:] = bytes(255 - byte for byte in obj.byte_array)


class SealedAdapter(WrappingAdapter):
    prefix = "sealed"

    def wrap(self, connector: RemoteConnector, context: Any) -> RemoteConnector:
        return Sealed(connector)


async def test_a_wrapper_that_changes_chunks_in_get_and_put_changes_those_of_callers_memory_as_well(
    backend: LocalCPUBackend,
) -> None:
    config = CONFIG.model_copy(update={"trusted_modules": ("*",)})
    async with ConnectorManager(local_cpu_backend=backend, config=config) as manager:
        manager.register(SealedAdapter())
        sealed = manager.create_connector("sealed+memory://secret")
        assert await sealed.put_from("a", b"plain")
        buffer = bytearray(5)
        assert await sealed.get_into("a", buffer)
        assert buffer == b"plain"
        assert await manager.create_connector("memory://secret").get_into("a", buffer)
        assert buffer == bytes(255 - byte for byte in b"plain")


async def test_a_fault_is_the_stores_and_not_the_callers(manager: ConnectorManager) -> None:
    connector = manager.create_connector("fault+memory://f?fault_error_rate=1")
    with pytest.raises(StoreUnavailableError):
        await connector.get_into("a", bytearray(1))
