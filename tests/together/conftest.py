"""The two servers, and the memory, of tests with many single calls."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.testing import RedisServer, ValkeyServer

from .stock import MIB

CONFIG = ConnectorConfig.load(operation_timeout=40, allocate_timeout=40, stall_timeout=20)


@pytest.fixture(params=["valkey_server", "redis_server"], ids=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> ValkeyServer | RedisServer:
    """One server after the other, empty."""
    found: ValkeyServer | RedisServer = request.getfixturevalue(request.param)
    found.flush()
    return found


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    """256 MiB, of which nothing may be in use after a test."""
    with LocalCPUBackend(256 * MIB) as made:
        yield made
        gc.collect()
        held = made.statistics()
        assert (held.reserved, held.live_objects, held.leaked_objects, held.waiters) == (0, 0, 0, 0), held


@pytest_asyncio.fixture(params=["auto", "loop", "thread"])
async def connector(
    request: pytest.FixtureRequest, server: ValkeyServer | RedisServer, backend: LocalCPUBackend
) -> AsyncIterator[ManagedConnector]:
    """A connector of the server, with each way in which bytes are moved."""
    url = server.url(options={"io": request.param})
    async with ConnectorManager(url, local_cpu_backend=backend, config=CONFIG) as manager:
        yield manager.create_connector()
    server.flush()
