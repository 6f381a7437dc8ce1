"""Spans of OpenTelemetry: one per operation, under the caller's, and none where nobody asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, StoreUnavailableError
from lmcache_connect.observability import current_tracer
from lmcache_connect.testing import ValkeyServer


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans that end during the test."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)  # the package lets it be set once in a process
    yield exporter
    provider.shutdown()


@pytest.mark.asyncio
async def test_an_operation_is_a_span_that_says_what_was_moved(
    spans: InMemorySpanExporter, valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        chunk = local_cpu_backend.allocate((100,), "uint8")
        assert chunk is not None
        with chunk:
            await connector.put("a-key", chunk)
        for obj in await connector.batched_get(["a-key", "another-key"]):
            if obj is not None:
                obj.ref_count_down()
    put, got = spans.get_finished_spans()
    assert put.name == "lmcache_connect.put"
    assert dict(put.attributes or {}) == {
        "lmcache_connect.connector": "redis-1",
        "lmcache_connect.keys": 1,
        "lmcache_connect.bytes": 100,
        "lmcache_connect.misses": 0,
    }
    assert got.name == "lmcache_connect.batched_get"
    assert dict(got.attributes or {}) == {
        "lmcache_connect.connector": "redis-1",
        "lmcache_connect.keys": 2,
        "lmcache_connect.bytes": 100,
        "lmcache_connect.misses": 1,
    }
    assert got.status.is_unset
    assert "a-key" not in put.to_json() + got.to_json()


@pytest.mark.asyncio
async def test_a_span_is_under_its_callers_also_from_another_thread(
    spans: InMemorySpanExporter, valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        connector = manager.create_connector()
        tracer = trace.get_tracer("a test")
        with tracer.start_as_current_span("request"):
            await connector.exists("a")

        def elsewhere() -> None:
            with tracer.start_as_current_span("thread"):
                connector.sync.exists("a")

        thread = threading.Thread(target=elsewhere)
        thread.start()
        import anyio.to_thread

        await anyio.to_thread.run_sync(thread.join)
    finished = {span.name: span for span in spans.get_finished_spans()}
    children = [span for span in spans.get_finished_spans() if span.name == "lmcache_connect.exists"]
    parents = {child.parent.span_id for child in children if child.parent is not None}
    assert parents == {finished["request"].context.span_id, finished["thread"].context.span_id}


@pytest.mark.parametrize("errors", ["raise", "miss"])
@pytest.mark.asyncio
async def test_a_failure_is_told_by_its_class_and_without_its_message(
    spans: InMemorySpanExporter, local_cpu_backend: LocalCPUBackend, errors: str
) -> None:
    with ValkeyServer() as server:
        config = ConnectorConfig.load(retries=0, errors=errors)
        async with ConnectorManager(server.url(), None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            server.kill()
            if errors == "raise":
                with pytest.raises(StoreUnavailableError):
                    await connector.get("a-key")
            else:
                assert await connector.get("a-key") is None
    (span,) = spans.get_finished_spans()
    assert not span.status.is_ok
    assert span.status.description == "StoreUnavailableError"
    assert (span.attributes or {})["error.type"] == "StoreUnavailableError"
    assert span.events == ()
    assert "a-key" not in span.to_json()
    assert "127.0.0.1" not in span.to_json()


def test_without_a_configured_tracer_there_is_none_and_nothing_is_imported() -> None:
    assert current_tracer() is None
    program = """
import sys
import lmcache_connect
from lmcache_connect.observability import current_tracer
assert current_tracer() is None
assert not any(name.startswith("opentelemetry") for name in sys.modules)
import opentelemetry.trace
assert current_tracer() is None
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
