"""Clearing removes what is ours, and says what it has left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    ConnectorManager,
    Key,
    LocalCPUBackend,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
)
from lmcache_connect.contract import counting_left_out
from lmcache_connect.oversight import clear

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(operation_timeout=5, retries=0)

FOREIGN = ["job 1\n", "\udcff\x00", "x" * 5000, "", "\x7f"]


class CarelessConnector(RemoteConnector):
    """Lists whatever its store holds, as a third party's connector does."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    async def exists(self, key: Key) -> bool:
        return key in self.names

    async def get(self, key: Key) -> MemoryObj | None:
        return None

    async def put(self, key: Key, memory_obj: MemoryObj) -> None: ...

    async def remove(self, key: Key) -> bool:
        self.names.remove(str(key))
        return True

    async def list(self) -> list[str]:
        return [*self.names]

    async def close(self) -> None: ...


class CarelessAdapter(ConnectorAdapter):
    schema = "careless://"

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return CarelessConnector(self.names)


async def with_names(names: list[str], local_cpu_backend: LocalCPUBackend) -> tuple[ConnectorManager, ManagedConnector]:
    manager = ConnectorManager(None, None, local_cpu_backend, QUICK)
    manager.register(CarelessAdapter(names))
    return manager, manager.create_connector("careless://host")


async def test_names_that_no_call_takes_are_not_listed_and_are_told_once(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    manager, connector = await with_names(["a", *FOREIGN, "é"], local_cpu_backend)
    async with manager:
        with caplog.at_level(logging.WARNING):
            assert await connector.list() == ["a", "é"]
            assert [name async for name in connector.scan()] == ["a", "é"]
        assert await connector.batched_remove(await connector.list()) == [True, True]
    [told] = [record for record in caplog.records if "names_left_out" in record.getMessage()]
    assert f"names={len(FOREIGN)}" in told.getMessage()


async def test_a_clearing_that_leaves_out_a_foreign_name_removes_the_rest_and_is_not_complete(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    manager, connector = await with_names(["a", *FOREIGN, "b"], local_cpu_backend)
    async with manager:
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.failed) == (2, 2, 0)
        assert (found.left_out, found.is_complete) == (len(FOREIGN), False)
        assert await connector.list() == []


async def test_a_clearing_of_our_names_alone_is_complete(local_cpu_backend: LocalCPUBackend) -> None:
    manager, connector = await with_names([f"k{number}" for number in range(2500)], local_cpu_backend)
    async with manager:
        found = await clear(connector, "")
        assert (found.matched, found.removed, found.left_out, found.is_complete) == (2500, 2500, 0, True)


async def test_names_that_are_left_out_are_counted_from_other_loops_and_in_outer_counts_as_well(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    manager, connector = await with_names([*FOREIGN], local_cpu_backend)

    def elsewhere(call: Callable[[], object]) -> None:
        asyncio.run(call())  # type: ignore[arg-type]  # a coroutine

    async def listed() -> None:
        with counting_left_out() as outer, counting_left_out() as inner:
            assert await connector.list() == []
        assert (outer.count, inner.count) == (len(FOREIGN), len(FOREIGN))

    async with manager:
        await asyncio.to_thread(elsewhere, listed)
