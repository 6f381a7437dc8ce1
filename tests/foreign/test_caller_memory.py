"""Code of others is never given memory of a caller: a get copies what has come, a put is given copies."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from lmcache_connect import (
    CacheEngineKey,
    ChunkMetadata,
    ConnectorConfig,
    ConnectorManager,
    LocalCPUBackend,
    ManagedConnector,
    OperationTimeoutError,
)

from . import gate
from .strangers import minimal

pytestmark = pytest.mark.asyncio

SHORT = {"operation_timeout": 0.2, "min_throughput": 1 << 40, "retries": 0, "close_grace": 0.2}
KEY = CacheEngineKey("model", 2, 0, 0xAB, "bfloat16")


@pytest.fixture(autouse=True)
def gate_is_closed() -> Iterator[None]:
    gate.OPEN.clear()
    yield
    gate.OPEN.set()


@pytest_asyncio.fixture
async def manager() -> AsyncIterator[ConnectorManager]:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager(local_cpu_backend=backend, config=ConnectorConfig.load(**SHORT)) as manager:
            yield manager
            gate.OPEN.set()
        while any(connector.context.lane.abandoned_calls for connector in manager.known_connectors):
            await asyncio.sleep(0.001)
        gc.collect()
        assert backend.statistics().reserved == 0, backend.statistics()


async def connected(manager: ConnectorManager, name: str) -> ManagedConnector:
    module, _, kind = name.partition(".")
    url = f"external://h:0/tests.foreign.strangers.{module}/?connector_name={kind}"
    return await manager.open_connector(url)


@pytest.mark.parametrize("name", ["minimal.MinimalConnector", "duck.Duck", "duck.Hoarder", "duck.Holes"])
async def test_a_chunk_goes_there_and_back_through_memory_of_the_caller(manager: ConnectorManager, name: str) -> None:
    connector = await connected(manager, name)
    metadata = ChunkMetadata.of((2, 5, 10), "uint8")
    sent = bytes(range(100))
    assert await connector.put_from(KEY, [sent[:3], b"", sent[3:]], metadata)
    assert await connector.batched_put_from(["a", "b"], [b"1", b"22"]) == [True, True]
    buffer = bytearray(100)
    assert await connector.get_into(KEY, buffer, metadata)
    assert buffer == sent
    one, two = bytearray(1), bytearray(2)
    assert await connector.batched_get_into(["a", "none", "b"], [one, bytearray(7), two]) == [True, False, True]
    assert one + two == b"122"
    assert not await connector.get_into(KEY, bytearray(100), ChunkMetadata.of((100,), "uint8"))
    assert not await connector.get_into(KEY, bytearray(99))
    found = await connector.get(KEY)
    assert found is not None
    with found:
        assert (found.metadata, bytes(found.byte_array)) == (metadata, sent)


async def test_a_put_needs_no_room_in_the_arena(manager: ConnectorManager) -> None:
    connector = await connected(manager, "minimal.MinimalConnector")
    held = manager.local_cpu_backend.allocate((1 << 20,), "uint8")
    assert held is not None
    with held:
        assert await connector.put_from("a", b"x" * 5000)
    buffer = bytearray(5000)
    assert await connector.get_into("a", buffer)
    assert buffer == b"x" * 5000


async def test_a_put_that_was_left_behind_reads_memory_of_its_own(manager: ConnectorManager) -> None:
    connector = await connected(manager, "stubborn.Stubborn")
    buffer = bytearray(b"x" * 4096)
    with pytest.raises(OperationTimeoutError):
        await connector.put_from("k", buffer)
    assert connector.context.lane.abandoned_bytes == 4096
    buffer[:] = bytes(4096)
    buffer.append(0)  # it is the caller's again
    gate.OPEN.set()
    while connector.context.lane.abandoned_calls:
        await asyncio.sleep(0.001)
    wrapped: Any = connector.wrapped
    assert wrapped.seen == [b"x" * 4096]


async def test_a_get_that_was_left_behind_writes_nothing_into_memory_of_the_caller(manager: ConnectorManager) -> None:
    connector = await connected(manager, "stubborn.Stubborn")
    gate.OPEN.set()
    assert await connector.put_from("k", b"x" * 4096)
    gate.OPEN.clear()
    buffer = bytearray(4096)
    with pytest.raises(OperationTimeoutError):
        await connector.get_into("k", buffer)
    gate.OPEN.set()
    while connector.context.lane.abandoned_calls:
        await asyncio.sleep(0.001)
    assert buffer == bytes(4096)


async def test_methods_of_the_authors_own_for_such_memory_are_not_called(
    manager: ConnectorManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in ("get_into", "put_from", "batched_get_into", "batched_put_from"):

        async def method(self: Any, *arguments: Any, name: str = name) -> Any:
            called.append(name)

        monkeypatch.setattr(minimal.MinimalConnector, name, method, raising=False)
    connector = await connected(manager, "minimal.MinimalConnector")
    assert await connector.put_from("a", b"x")
    assert await connector.batched_put_from(["b"], [b"x"]) == [True]
    assert await connector.get_into("a", bytearray(1))
    assert await connector.batched_get_into(["b"], [bytearray(1)]) == [True]
    assert called == []


async def test_what_a_stranger_says_is_damaged_is_false_and_counted(manager: ConnectorManager) -> None:
    connector = await connected(manager, "duck.Damaged")
    assert await connector.batched_get_into(["a"], [bytearray(1)]) == [False]
    assert await connector.get_into("a", bytearray(1)) is False
    assert connector.statistics()["get_into"].misses == {"corrupt:checksum": 1}
