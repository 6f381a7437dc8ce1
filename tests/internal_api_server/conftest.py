"""A served manager on a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer


@dataclass
class Served:
    """A server, what it serves, and a client of it."""

    manager: ConnectorManager
    connector: ManagedConnector
    backend: LocalCPUBackend
    server: InternalAPIServer
    client: httpx.AsyncClient

    async def put(self, *keys: str, nbytes: int = 64) -> None:
        for key in keys:
            chunk = self.backend.allocate((nbytes,), "uint8")
            assert chunk is not None
            with chunk:
                await self.connector.put(key, chunk)


def client_of(server: InternalAPIServer, **settings: Any) -> httpx.AsyncClient:
    """A client of a server, wherever it listens; no proxy of the environment comes between."""
    assert server.address is not None
    if server.address.startswith("unix:"):
        transport = httpx.AsyncHTTPTransport(uds=server.address.removeprefix("unix:"))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False, **settings)
    return httpx.AsyncClient(base_url=server.address, trust_env=False, **settings)


@asynccontextmanager
async def serving(
    url: str, backend: LocalCPUBackend, config: ConnectorConfig | None = None, **settings: Any
) -> AsyncIterator[Served]:
    async with ConnectorManager(url, None, backend, config) as manager:
        connector = manager.create_connector()
        async with InternalAPIServer(manager, APIServerConfig.load(**settings)) as server:
            async with client_of(server) as client:
                yield Served(manager, connector, backend, server, client)


@pytest_asyncio.fixture
async def served(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> AsyncIterator[Served]:
    async with serving(valkey_url, local_cpu_backend) as made:
        yield made
        local_cpu_backend.clear()
