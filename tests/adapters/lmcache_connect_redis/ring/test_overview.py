"""What an operator is told of a ring's servers, and rings with passwords and TLS."""

from __future__ import annotations

import httpx
import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import AuthenticationError
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.oversight import ManagerMetrics
from lmcache_connect.testing import RedisServer, RingServers

from ..chunks import holds, payload
from .rings import Servers

pytestmark = pytest.mark.asyncio

KEYS = [f"k{number}" for number in range(30)]


async def test_the_api_and_the_metrics_tell_which_server_is_down(servers: Servers, backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(errors="miss", breaker_reset=60.0)
    async with ConnectorManager(servers.url(), local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector()
        await connector.batched_put_from(KEYS, [payload(key, 1000) for key in KEYS])
        servers.servers[1].kill()
        for _ in range(3):
            await connector.batched_exists(KEYS)
        text = ManagerMetrics(manager).render()[0].decode()
        assert 'lmcache_connect_servers{connector="redis-ring-1",state="closed"} 2.0' in text
        assert 'lmcache_connect_servers{connector="redis-ring-1",state="open"} 1.0' in text
        assert str(servers.servers[1].port) not in text
        async with InternalAPIServer(manager, APIServerConfig.load()) as server, httpx.AsyncClient() as client:
            [found] = (await client.get(f"{server.address}/vllm/connectors")).json()["connectors"]
        told = {each["server"]: each for each in found["servers"]}
        down = told.pop(f"redis://127.0.0.1:{servers.servers[1].port}")
        assert (down["breaker"], down["error"]) == ("open", "StoreUnavailableError")
        assert down["failures"] >= 5
        assert "Connection refused" in down["detail"]
        assert {(each["breaker"], each["failures"], each["error"]) for each in told.values()} == {("closed", 0, "")}


async def test_a_ring_with_a_password_on_every_server(backend: LocalCPUBackend) -> None:
    with RingServers(password="pass, word") as ring:
        async with ConnectorManager(ring.url(), local_cpu_backend=backend) as manager:
            connector = manager.create_connector()
            await connector.batched_put_from(KEYS, [payload(key, 1000) for key in KEYS])
            found = await connector.batched_get(KEYS)
            assert all(holds(obj, key) for obj, key in zip(found, KEYS, strict=True))
            assert "pass" not in "".join(state.server for state in connector.servers()).replace("bypass", "")
            wrong = manager.create_connector(ring.url().replace("pass", "an-other", 1))
            with pytest.raises(AuthenticationError) as refused:
                await wrong.batched_get(KEYS)
            assert "an-other" not in str(refused.value)


@pytest.mark.tls
async def test_a_ring_over_tls(backend: LocalCPUBackend) -> None:
    with RingServers(RedisServer, tls=True) as ring:
        url = ring.url("rediss-ring", options={"ca_file": ring.ca_file})
        async with ConnectorManager(url, local_cpu_backend=backend) as manager:
            connector = manager.create_connector()
            sources = [payload(key, 300_000) for key in KEYS]
            assert await connector.batched_put_from(KEYS, sources) == [True] * len(KEYS)
            buffers = [bytearray(300_000) for _ in KEYS]
            assert await connector.batched_get_into(KEYS, buffers) == [True] * len(KEYS)
            assert [bytes(buffer) for buffer in buffers] == sources
