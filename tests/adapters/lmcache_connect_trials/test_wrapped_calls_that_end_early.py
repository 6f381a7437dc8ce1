"""What a caller who leaves early, a scan that fails and a miss look like through a wrapper."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, RemoteConnector
from lmcache_connect_trials.audit_connector import AuditConnector
from lmcache_connect_trials.audit_options import AuditSettings
from lmcache_connect_trials.fault_connector import InjectedFaultError
from lmcache_reference_connectors import memory
from lmcache_reference_connectors.memory import MemoryConnector

from .test_trials import audits

CONFIG = ConnectorConfig.load(retries=0, breaker_failures=100_000)
LARGE = 12 << 20  # three pieces, between which a comparison gives the loop its turn


async def put(connector: RemoteConnector, backend: LocalCPUBackend, *keys: str, nbytes: int = 100) -> None:
    for key in keys:
        chunk = backend.allocate((nbytes,), "uint8")
        assert chunk is not None
        with chunk:
            await connector.put(key, chunk)


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.asyncio
async def test_a_get_that_is_cancelled_while_its_chunk_is_compared_gives_the_chunk_back(
    local_cpu_backend: LocalCPUBackend, batched: bool
) -> None:
    memory._stores.clear()
    async with ConnectorManager("audit+memory://early", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, local_cpu_backend, "a", nbytes=LARGE)
        ended = 0
        for turns in range(12):
            call: Any = connector.batched_get(["a", "a"]) if batched else connector.get("a")
            getting = asyncio.create_task(call)
            for _ in range(turns):
                await asyncio.sleep(0)
            getting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                for obj in [*(await getting)] if batched else [await getting]:
                    obj.ref_count_down()
                ended += 1
            assert local_cpu_backend.statistics().live_objects == 0, turns
        assert ended < 12


@pytest.mark.asyncio
async def test_a_miss_is_told_as_a_miss(local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture) -> None:
    memory._stores.clear()
    async with ConnectorManager("audit+memory://early", None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        with caplog.at_level(logging.INFO, logger="lmcache_connect"):
            assert await connector.get("nothing") is None
            await put(connector, local_cpu_backend, "a")
    assert [(fact["operation"], fact["outcome"]) for fact in audits(caplog)][:2] == [("get", "miss"), ("put", "done")]


class Endless(MemoryConnector):
    """Names without end; remembers whether a scan was closed."""

    was_closed = False

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
        finally:
            self.was_closed = True


@pytest.mark.asyncio
async def test_a_scan_that_is_left_early_closes_the_one_inside_at_once(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    inside = Endless("memory://early", local_cpu_backend)
    audit = AuditConnector(inside, "memory://early", AuditSettings())
    names = audit.scan()
    assert await anext(names) == "a"
    with caplog.at_level(logging.INFO, logger="lmcache_connect"):
        await names.aclose()  # type: ignore[attr-defined]
    assert inside.was_closed
    assert audits(caplog)[-1]["outcome"] == "left"


@pytest.mark.asyncio
async def test_faults_come_into_scans_before_their_first_name(local_cpu_backend: LocalCPUBackend) -> None:
    memory._stores.clear()
    url = "fault+memory://early?fault_error_rate=0.5&fault_seed=3&fault_on=scan"
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        connector = manager.create_connector()
        await put(connector, local_cpu_backend, "a", "b")
        outcomes: list[object] = []
        for _ in range(20):
            try:
                outcomes.append(sorted([name async for name in connector.scan()]))
            except InjectedFaultError:
                outcomes.append("failed")
        assert ["a", "b"] in outcomes
        assert "failed" in outcomes
        assert [] not in outcomes
        assert connector.statistics()["scan"].errors == {"InjectedFaultError": outcomes.count("failed")}


@pytest.mark.asyncio
async def test_a_reset_cuts_a_scan_off(local_cpu_backend: LocalCPUBackend) -> None:
    url = "fault+memory://early?fault_reset_rate=1&fault_on=scan"
    async with ConnectorManager(url, None, local_cpu_backend, CONFIG) as manager:
        with pytest.raises(InjectedFaultError, match="an injected reset in scan"):
            _ = [name async for name in manager.create_connector().scan()]
