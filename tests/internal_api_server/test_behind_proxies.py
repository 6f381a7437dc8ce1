"""Behind HAProxy, which asks for readiness, and behind nginx under a path prefix."""

from __future__ import annotations

import asyncio

import anyio
import anyio.to_thread
import pytest

from lmcache_connect import ConnectorConfig, LocalCPUBackend
from lmcache_connect.testing import ValkeyServer

from .conftest import serving
from .web_proxies import PREFIX, HAProxy, Nginx

pytestmark = pytest.mark.proxy

QUICK = ConnectorConfig.load(operation_timeout=2, retries=0, breaker_failures=2, breaker_reset=0.1)


@pytest.mark.skipif(HAProxy.path() is None, reason="HAProxy is not installed on this machine")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.asyncio
async def test_haproxy_leads_to_a_server_while_its_stores_answer(
    local_cpu_backend: LocalCPUBackend, method: str
) -> None:
    with ValkeyServer() as store:
        async with serving(store.url(), local_cpu_backend, QUICK) as served:
            port = int((served.server.address or "").rpartition(":")[2])
            proxy = HAProxy(port, method)
            await anyio.to_thread.run_sync(proxy.start)
            try:

                async def until(status: int) -> None:
                    with anyio.fail_after(10):
                        while (await anyio.to_thread.run_sync(proxy.get, "/version"))[0] != status:
                            await asyncio.sleep(0.02)

                await until(200)
                store.kill()
                await until(503)  # HAProxy's own answer: no server is left
                store.restart()
                await until(200)
            finally:
                await anyio.to_thread.run_sync(proxy.stop)


@pytest.mark.skipif(Nginx.path() is None, reason="nginx is not installed on this machine")
@pytest.mark.asyncio
async def test_nginx_shows_the_page_and_the_routes_under_a_prefix(local_cpu_backend: LocalCPUBackend) -> None:
    async with serving("memory://prefix", local_cpu_backend) as served:
        proxy = Nginx(int((served.server.address or "").rpartition(":")[2]))
        await anyio.to_thread.run_sync(proxy.start)
        try:
            for path, text in (("", "<h1>LMCache Connect</h1>"), ("status", "memory-1"), ("health/ready", "ready")):
                status, found = await anyio.to_thread.run_sync(proxy.get, PREFIX + path)
                assert status == 200
                assert text in found
        finally:
            await anyio.to_thread.run_sync(proxy.stop)
