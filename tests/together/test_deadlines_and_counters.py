"""Each of many calls has its own deadline, its own span, and its own place in the counters."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, OperationTimeoutError
from lmcache_connect.testing import Fault, FaultKind, FaultProxy, RedisServer, ValkeyServer

from .crowd import TIME_LIMIT
from .stock import KIB, MIB, Kind, Stock, new_chunk

pytestmark = [pytest.mark.asyncio, pytest.mark.in_turn]

SLACK = 0.5
"""Seconds by which a busy machine may be late."""


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that end during the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # the package lets it be set once in a process
    yield exporter
    provider.shutdown()


async def test_each_call_ends_by_its_own_deadline_although_all_wait_for_the_same_server(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(
        operation_timeout=0.6, min_throughput=64 * MIB, stall_timeout=30, retries=0, breaker_failures=1000
    )
    with FaultProxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
            connector = manager.create_connector()
            small = await new_chunk(backend, "small", 1, 4 * KIB)
            large = await new_chunk(backend, "k", 1, 32 * MIB)
            with small, large:
                await connector.put("small", small)
                await connector.put("k", large)
                proxy.arm(Fault(FaultKind.STALL))

                async def ends_after(seconds: float, begins: float, call: Coroutine[Any, Any, object]) -> None:
                    await asyncio.sleep(begins)
                    begun = time.monotonic()
                    with pytest.raises(OperationTimeoutError):
                        await call
                    took = time.monotonic() - begun
                    assert seconds - 0.05 < took < seconds + SLACK, (seconds, took)

                # A get does not know the size of its chunk, and has the time for 64 MiB.
                calls = []
                for begins in (0.0, 0.3):
                    calls += [ends_after(0.6, begins, connector.exists("k")) for _ in range(20)]
                    calls += [ends_after(0.6, begins, connector.put("small", small)) for _ in range(5)]
                    calls += [ends_after(1.6, begins, connector.get("small")) for _ in range(20)]
                    calls += [ends_after(1.1, begins, connector.put("k", large)) for _ in range(2)]
                async with asyncio.timeout(TIME_LIMIT):
                    await asyncio.gather(*calls)
                proxy.disarm()
                assert await connector.exists("k")


async def test_a_call_that_its_caller_gives_up_early_does_not_shorten_the_others(
    server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> None:
    config = ConnectorConfig.load(operation_timeout=20, stall_timeout=20, retries=0)
    with FaultProxy(server.host, server.port) as proxy:
        url = f"redis://{proxy.host}:{proxy.port}"
        async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
            connector = manager.create_connector()
            with await new_chunk(backend, "k", 1, 4 * KIB) as obj:
                await connector.put("k", obj)
            proxy.arm(Fault(FaultKind.STALL))

            async def impatient() -> None:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await connector.exists("k")

            async def get() -> None:
                found = await connector.get("k")
                assert found is not None
                found.ref_count_down()

            others = [asyncio.ensure_future(call) for _ in range(20) for call in (connector.exists("k"), get())]
            await asyncio.gather(*[impatient() for _ in range(40)])
            assert not any(call.done() for call in others)
            proxy.disarm()
            async with asyncio.timeout(TIME_LIMIT):
                assert all(found is not False for found in await asyncio.gather(*others))


async def test_the_counters_of_many_concurrent_calls_are_those_of_the_same_calls_one_by_one(
    connector: ManagedConnector, server: ValkeyServer | RedisServer
) -> None:
    with server.client() as client:
        stock = await Stock((4 * KIB, 64 * KIB, 300 * KIB, MIB, 5 * MIB), damaged=(4 * KIB, 5 * MIB)).fill(
            connector, client
        )
    puts = connector.statistics()["put"]
    assert (puts.calls, puts.bytes) == (7, sum(item.nbytes for item in stock.items))

    async def get(index: int) -> None:
        item = stock.items[index]
        await item.check_get(await connector.get(item.key))

    times = 20
    order = [*range(len(stock.items))] * times
    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*[get(index) for index in order], *[connector.exists("missing-0") for _ in range(times)])
    gets = connector.statistics()["get"]
    kinds = Counter(item.kind for item in stock.items)
    assert (gets.calls, gets.items, gets.in_flight) == (len(order), len(order), 0)
    assert gets.hits == times * kinds[Kind.CHUNK]
    assert gets.bytes == times * sum(item.nbytes for item in stock.chunks)
    # A damaged record may be removed once it was seen often enough. From then on it is absent.
    corrupt = sum(number for reason, number in gets.misses.items() if reason.startswith("corrupt:"))
    assert corrupt + gets.misses["absent"] == gets.misses.total() == len(order) - gets.hits
    assert gets.misses["absent"] >= times * kinds[Kind.MISSING]
    assert gets.misses["corrupt:checksum"] >= 2
    assert not gets.errors
    assert gets.wire.count == len(order)
    looked_up = connector.statistics()["exists"]
    assert (looked_up.calls, looked_up.hits, looked_up.misses) == (times, 0, {"absent": times})


async def test_each_of_many_concurrent_calls_has_a_span_of_its_own_under_its_caller(
    connector: ManagedConnector, server: ValkeyServer | RedisServer, spans: InMemorySpanExporter
) -> None:
    with server.client() as client:
        stock = await Stock((4 * KIB, 64 * KIB, 2 * MIB, 5 * MIB), damaged=()).fill(connector, client)
    tracer = trace.get_tracer("a test")
    spans.clear()

    async def get(index: int) -> None:
        item = stock.items[index % len(stock.items)]
        with tracer.start_as_current_span(f"caller-{index}"):
            await item.check_get(await connector.get(item.key))

    async with asyncio.timeout(TIME_LIMIT):
        await asyncio.gather(*map(get, range(200)))
    ended = spans.get_finished_spans()
    callers = {span.context.span_id: int(span.name[7:]) for span in ended if span.name.startswith("caller-")}
    gets = [span for span in ended if span.name == "lmcache_connect.get"]
    assert len(callers) == len(gets) == 200
    for span in gets:
        assert span.parent is not None
        item = stock.items[callers.pop(span.parent.span_id) % len(stock.items)]
        assert span.attributes is not None
        assert span.attributes["lmcache_connect.bytes"] == item.nbytes
        assert span.attributes["lmcache_connect.misses"] == (item.kind is not Kind.CHUNK)
