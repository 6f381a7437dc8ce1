"""A ring inside other connectors: its servers are known there, and one that fails does not close the whole."""

from __future__ import annotations

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.contract import BreakerState

from ..chunks import holds, payload
from .rings import Servers

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("prefix", "options"), [("hot", {"hot_bytes": "8MiB"}), ("audit", {}), ("fault", {})])
async def test_a_ring_inside_another_connector(
    servers: Servers, backend: LocalCPUBackend, prefix: str, options: dict[str, str]
) -> None:
    lost, kept = servers.keys_on(0, 10), servers.keys_on(1, 10)
    config = ConnectorConfig.load(errors="miss", breaker_reset=60.0)
    url = f"{prefix}+{servers.url(**options)}"
    async with ConnectorManager(url, local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        assert [state.breaker for state in connector.servers()] == [BreakerState.CLOSED] * 3
        assert await connector.batched_put_from(kept, [payload(key, 1000) for key in kept]) == [True] * 10
        servers.servers[0].kill()
        for key in lost:
            assert await connector.get(key) is None
        assert connector.breaker_state is BreakerState.CLOSED
        assert sorted(state.breaker.value for state in connector.servers()) == ["closed", "closed", "open"]
        found = await connector.batched_get([*lost, *kept])
        assert found[:10] == [None] * 10
        assert all(holds(obj, key) for obj, key in zip(found[10:], kept, strict=True))
