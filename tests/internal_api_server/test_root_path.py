"""Below a path prefix: behind a proxy that does not take it off, and mounted in an application."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import InvalidConfigError
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer

from .conftest import serving

TOKEN = "0123456789-a-token"


@pytest.mark.asyncio
async def test_paths_below_the_prefix_and_without_it_are_answered_and_need_the_token_alike(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    async with serving(
        "memory://root", local_cpu_backend, root_path="/cache/api", token=TOKEN, protect="all"
    ) as served:
        statuses = {
            path: (await served.client.get(path)).status_code
            for path in (
                "/cache/api",
                "/cache/api/",
                "/cache/api/health/live",
                "/health/ready",
                "/cache/api/status",
                "/status",
                "/cache/apistatus",
                "/cache/api/cache/api/status",
            )
        }
        assert [*statuses.values()] == [200, 200, 200, 200, 401, 401, 401, 401]
        bearer = {"authorization": f"Bearer {TOKEN}"}
        answer = await served.client.get("/cache/api/status", headers=bearer)
        assert answer.json()["token_needed"] is True
        assert (await served.client.head("/cache/api/health/live")).status_code == 200
        assert (await served.client.get("/cache/apistatus", headers=bearer)).status_code == 404
        document = (await served.client.get("/cache/api/openapi.json", headers=bearer)).json()
        assert document["servers"] == [{"url": "/cache/api"}]


@pytest.mark.asyncio
async def test_health_needs_no_token_and_no_host_where_the_application_is_mounted_in_another_one() -> None:
    async with ConnectorManager("memory://mounted") as manager:
        manager.create_connector()
        server = InternalAPIServer(manager, APIServerConfig.load(token=TOKEN, protect="all"))
        app = FastAPI()
        app.mount("/cache", server.app)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for path, status in (("/cache/health/ready", 200), ("/cache/", 200), ("/cache/status", 401)):
                assert (await client.get(path)).status_code == status, path
            assert (await client.get("/cache/health/live", headers={"host": "lb.example"})).status_code == 421


@pytest.mark.parametrize("prefix", ["cache", "/cache/", "/a//b", "/ca che", "https://host/cache", "/" * 300])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidConfigError, match="root_path"):
        APIServerConfig.load(root_path=prefix)
