"""What a plug-in left behind is seen by an operator: as metrics, until it has ended."""

from __future__ import annotations

import asyncio

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, OperationTimeoutError
from lmcache_connect.oversight import ManagerMetrics

from ..adapters.lmcache_connect_redis.chunks import chunk
from ..foreign import gate

URL = "external://h:0/tests.foreign.strangers.stubborn/?connector_name=Stubborn"


@pytest.mark.asyncio
async def test_calls_that_were_left_behind_and_their_bytes_are_metrics_until_they_have_ended() -> None:
    gate.OPEN.clear()
    config = ConnectorConfig.load(operation_timeout=0.1, min_throughput=1 << 40, retries=0, close_grace=0.1)
    try:
        async with ConnectorManager(config=config) as manager:
            connector = await manager.open_connector(URL)
            with chunk(manager.local_cpu_backend, "k", 4096) as obj, pytest.raises(OperationTimeoutError):
                await connector.put("k", obj)
            text = ManagerMetrics(manager).render()[0].decode()
            assert f'lmcache_connect_abandoned_calls{{connector="{connector.name}"}} 1.0' in text
            assert f'lmcache_connect_abandoned_bytes{{connector="{connector.name}"}} 4096.0' in text
            gate.OPEN.set()
            while connector.abandoned_calls:
                await asyncio.sleep(0.001)
            text = ManagerMetrics(manager).render()[0].decode()
            assert f'lmcache_connect_abandoned_bytes{{connector="{connector.name}"}} 0.0' in text
    finally:
        gate.OPEN.set()
