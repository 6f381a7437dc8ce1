"""A store that refuses every call does not flood the log: its beginning is told, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, StoreError
from lmcache_connect.testing import ValkeyServer

CALLS = 300


@contextmanager
def full() -> Iterator[str]:
    with ValkeyServer(maxmemory="1mb", config={"maxmemory-policy": "noeviction"}) as server:
        yield server.url()


@contextmanager
def with_another_password() -> Iterator[str]:
    with ValkeyServer(password="right") as server:
        yield f"redis://:wrong@{server.host}:{server.port}"


@contextmanager
def a_replica() -> Iterator[str]:
    with ValkeyServer() as primary, ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as server:
        yield server.url()


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [getattr(record, "connect", {}) for record in caplog.records]
    return [line for line in found if line.get("event", "").startswith("operation_")]


@pytest.mark.parametrize("store", [full, with_another_password, a_replica], ids=lambda store: store.__name__)
@pytest.mark.asyncio
async def test_hundreds_of_refused_puts_are_told_when_they_begin_and_when_they_end(
    store: Any, local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with store() as url:
        config = ConnectorConfig.load(errors="miss", retries=0)
        async with ConnectorManager(url, None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            chunk = local_cpu_backend.allocate((100_000,), "uint8")
            assert chunk is not None
            with chunk:
                for number in range(CALLS):
                    try:
                        await connector.put(str(number), chunk)
                    except StoreError:
                        pass
            errors = connector.statistics()["put"].errors
            assert errors.total() >= CALLS - 10
            assert [line["event"] for line in told(caplog)] == ["operation_failed"] * len(errors)
        (ended,) = [line for line in told(caplog) if line["event"] == "operation_failures_ended"]
        assert ended["failures"] == errors.total()
        assert (ended["operation"], ended["now"]) == ("put", "is closed")
