"""Reading makes nothing: no memory is mapped and no event loop is started or adopted for a GET."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from lmcache_connect import ConnectorManager
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer

from .conftest import client_of


@pytest.fixture
def manager() -> ConnectorManager:
    """A manager that has made nothing yet."""
    return ConnectorManager("memory://reading")


@pytest_asyncio.fixture
async def client(manager: ConnectorManager) -> AsyncIterator[httpx.AsyncClient]:
    async with InternalAPIServer(manager, APIServerConfig.load(thread=True)) as server, client_of(server) as client:
        yield client
    await manager.close()


@pytest.mark.asyncio
async def test_the_hot_cache_is_null_while_there_is_no_memory_and_clearing_it_makes_none(
    manager: ConnectorManager, client: httpx.AsyncClient
) -> None:
    assert (await client.get("/vllm/hot-cache")).json() is None
    assert (await client.get("/status")).json()["hot_cache"] is None
    assert (await client.post("/vllm/hot-cache/clear")).json() == {"dropped": 0, "hot_cache": None}
    cleared = (await client.post("/vllm/cache/clear", json={"prefix": "a", "dry_run": False})).json()
    assert [(place["location"], place["matched"]) for place in cleared["locations"]] == [("hot-cache", 0)]
    assert manager.made_backend is None


@pytest.mark.asyncio
async def test_switching_the_hot_cache_makes_the_memory_that_it_is_to_lie_in(
    manager: ConnectorManager, client: httpx.AsyncClient
) -> None:
    assert (await client.put("/vllm/hot-cache", json={"enabled": False})).json()["enabled"] is False
    assert manager.made_backend is not None
    assert (await client.get("/vllm/hot-cache")).json()["enabled"] is False


@pytest.mark.asyncio
async def test_no_get_makes_memory_or_takes_an_event_loop(manager: ConnectorManager, client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    read = [path for path, methods in paths.items() if "get" in methods]
    assert len(read) > 12
    for path in ("/", *read):
        answer = await client.get(path.replace("{name}", "memory-1"), params={"key": "a"})
        assert answer.status_code in {200, 404}, (path, answer.text)
        assert manager.made_backend is None, path
        assert manager.made_owner is None, path


@pytest.mark.asyncio
async def test_a_manager_that_was_read_before_its_first_use_lives_on_its_own_loop_and_not_on_the_servers() -> None:
    with_status = ConnectorManager("memory://reading")
    async with InternalAPIServer(with_status, APIServerConfig.load(thread=True)) as server, client_of(server) as client:
        assert (await client.get("/health/ready")).json() == {"status": "ready", "stores": []}
        assert (await client.get("/tasks")).json() == {"total": 0, "tasks": []}
    async with with_status:
        assert with_status.owner.loop is asyncio.get_running_loop()
        assert await with_status.create_connector().exists("a") is False
