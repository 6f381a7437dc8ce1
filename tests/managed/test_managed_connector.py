"""What a managed connector says of itself, and that it does all that it says it can."""

from __future__ import annotations

import pytest

from lmcache_connect import ConnectorClosedError, ConnectorConfig, ConnectorManager, LocalCPUBackend
from lmcache_connect.errors import StoreUnavailableError, UnsupportedOperationError
from lmcache_connect.testing import ValkeyServer

pytestmark = pytest.mark.asyncio

QUICK = ConnectorConfig.load(
    operation_timeout=5, retries=0, breaker_failures=1, breaker_reset=60, close_grace=1, announce_interval=0
)


async def test_its_repr_says_open_or_closed_and_names_the_breaker_only_where_that_matters(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, QUICK) as manager:
            connector = manager.create_connector()
            assert repr(connector) == f"<ManagedConnector {connector.store} (RedisConnector), open>"
            server.kill()
            with pytest.raises(StoreUnavailableError):
                await connector.exists("k")
            assert repr(connector) == f"<ManagedConnector {connector.store} (RedisConnector), open, breaker open>"
            await connector.close()
            assert repr(connector) == f"<ManagedConnector {connector.store} (RedisConnector), closed>"


async def test_where_it_supports_announcements_a_document_is_kept_found_and_withdrawn(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend, QUICK) as manager:
        connector = manager.create_connector()
        assert connector.support_announcements()
        await connector.announce("a-worker", b"a document", 30)
        assert await connector.announced() == [b"a document"]
        await connector.withdraw("a-worker")
        assert await connector.announced() == []
        counted = connector.statistics()
        assert (counted["announce"].calls, counted["withdraw"].calls) == (1, 1)
        await connector.close()
        with pytest.raises(ConnectorClosedError):
            await connector.announce("a-worker", b"a document", 30)


async def test_where_it_supports_no_announcements_it_says_so_by_name(local_cpu_backend: LocalCPUBackend) -> None:
    async with ConnectorManager("memory://silent", None, local_cpu_backend, QUICK) as manager:
        connector = manager.create_connector()
        assert not connector.support_announcements()
        with pytest.raises(UnsupportedOperationError, match="announce"):
            await connector.announce("a-worker", b"a document", 30)
        with pytest.raises(UnsupportedOperationError, match="withdraw"):
            await connector.withdraw("a-worker")


async def test_the_bytes_of_a_put_that_fails_go_back_to_the_budget(local_cpu_backend: LocalCPUBackend) -> None:
    config = QUICK.model_copy(update={"max_bytes_in_flight": 100, "breaker_failures": 100})
    with ValkeyServer() as server:
        async with ConnectorManager(server.url(), None, local_cpu_backend, config) as manager:
            connector = manager.create_connector()
            server.kill()
            with local_cpu_backend.allocate((100,), "uint8") as chunk:  # type: ignore[union-attr]
                for _ in range(3):
                    with pytest.raises(StoreUnavailableError):
                        await connector.put("k", chunk)
            assert connector.in_flight == 0
