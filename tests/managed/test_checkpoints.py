"""Every async call lets the event loop do other work at least once: also one that is refused, or answered, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.checkpoint import checkpointed, nothing
from lmcache_connect.errors import LMCacheConnectError

pytestmark = pytest.mark.asyncio

CONFIG: Final = ConnectorConfig.load(
    retries=0, breaker_failures=1, breaker_reset=60, errors="miss", operation_timeout=5, announce_interval=0
)

CALLS: Final[dict[str, Callable[[ManagedConnector, Any], Awaitable[object]]]] = {
    "exists": lambda connector, obj: connector.exists("k"),
    "get": lambda connector, obj: connector.get("k"),
    "put": lambda connector, obj: connector.put("k", obj),
    "remove": lambda connector, obj: connector.remove("k"),
    "batched_remove": lambda connector, obj: connector.batched_remove(["k"]),
    "list": lambda connector, obj: connector.list(),
    "scan": lambda connector, obj: anext(connector.scan()),
    "ping": lambda connector, obj: connector.ping(),
    "batched_exists": lambda connector, obj: connector.batched_exists(["k"]),
    "batched_async_contains": lambda connector, obj: connector.batched_async_contains("1", ["k"]),
    "batched_get": lambda connector, obj: connector.batched_get(["k"]),
    "batched_get_non_blocking": lambda connector, obj: connector.batched_get_non_blocking("1", ["k"]),
    "batched_put": lambda connector, obj: connector.batched_put(["k"], [obj]),
    "a key that is none": lambda connector, obj: connector.get(""),
    "no keys": lambda connector, obj: connector.batched_get([]),
    "allocate_async": lambda connector, obj: allocate(connector),
}


async def allocate(connector: ManagedConnector) -> None:
    with await connector.context.local_cpu_backend.allocate_async((8,), "uint8"):
        pass


class Ticks:
    """Counts the iterations that the loop gives to others."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


async def iterations(call: Callable[[], Awaitable[object]], times: int = 50) -> float:
    """The iterations of the loop that others had for each call."""
    ticks = Ticks()
    ticking = asyncio.create_task(ticks.run())
    try:
        await asyncio.sleep(0)
        before = ticks.count
        for _ in range(times):
            try:
                await call()
            except (LMCacheConnectError, StopAsyncIteration):
                pass
        return (ticks.count - before) / times
    finally:
        ticking.cancel()


@pytest.mark.parametrize("state", ["broken", "bypassed", "closed", "in memory"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_waits_for_nothing_lets_others_run(
    name: str, state: str, local_cpu_backend: LocalCPUBackend
) -> None:
    url = "mock://1" if state == "in memory" else "redis://127.0.0.1:1"
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        obj = local_cpu_backend.allocate((8,), "uint8")
        assert obj is not None
        with obj:
            if state == "broken":
                await connector.exists("k")
                assert connector.breaker_state.value == "open"
            elif state == "bypassed":
                connector.bypass = True
            elif state == "closed":
                await connector.close()
            times = 3 if name == "ping" or state == "bypassed" else 50
            assert await iterations(lambda: CALLS[name](connector, obj), times) >= 1


async def test_a_call_that_has_waited_does_not_wait_again() -> None:
    @checkpointed(nothing)
    async def waits() -> None:
        await asyncio.sleep(0)

    assert 1 <= await iterations(waits) < 1.1


async def test_a_chunk_that_a_cancelled_caller_cannot_take_is_released(local_cpu_backend: LocalCPUBackend) -> None:
    allocating = asyncio.create_task(local_cpu_backend.allocate_async((4096,), "uint8"))
    await asyncio.sleep(0)
    allocating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await allocating
    assert local_cpu_backend.statistics().reserved == 0


async def test_two_tasks_that_repeat_refused_calls_let_the_probe_through(local_cpu_backend: LocalCPUBackend) -> None:
    config = CONFIG.model_copy(update={"breaker_reset": 0.05})
    async with ConnectorManager("mock://1", None, local_cpu_backend, config) as manager:
        connector = manager.create_connector()
        for _ in range(config.breaker_failures):
            connector._runner.breaker.failed(connector._runner.breaker.admit(), is_transfer=False)
        assert connector.breaker_state.value == "open"

        async def repeat() -> None:
            while connector.breaker_state.value != "closed":
                await connector.exists("k")

        async with asyncio.timeout(5):
            await asyncio.gather(repeat(), repeat())
