"""Settings are taken or refused, and never ignored in silence."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings

import pytest

from lmcache_connect import ConnectorManager, create_connector
from lmcache_connect.errors import InvalidConfigError, SyncCallOnLoopError
from lmcache_connect.internal_api_server import InternalAPIServer


def test_a_mapping_is_taken_as_settings() -> None:
    with ConnectorManager(
        config={"errors": "miss", "url": "memory://mapped", "max_local_cpu_bytes": "8MiB"}
    ) as manager:
        assert manager.settings.errors == "miss"
        assert manager.create_connector().store == "memory://mapped"
        assert manager.local_cpu_backend.statistics().capacity == 8 << 20
    connector = create_connector("memory://mapped", config={"retries": 7})
    assert connector.context.settings.retries == 7
    connector.sync.close()


@pytest.mark.parametrize("name", ["operation_timout", "OPERATION_TIMEOUT", "operation-timeout"])
def test_a_setting_of_a_mapping_that_is_misspelt_is_refused_with_the_most_similar_one(name: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{name}': no such setting.*expected one of url") as caught:
        ConnectorManager(config={name: 5})
    assert caught.value.setting == name
    if name.islower():
        assert "did you mean 'operation_timeout'?" in str(caught.value)
    with pytest.raises(InvalidConfigError, match="'7': no such setting"):
        ConnectorManager(config={7: 5})


def test_a_variable_that_no_setting_is_read_from_is_told_once_with_the_most_similar_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LMCACHE_CONNECT_OPERATION_TIMOUT", "5-canary")
    monkeypatch.setenv("LMCACHE_CONNECT_XYZZY", "canary")
    monkeypatch.setenv("LMCACHE_CONNECT_RETRIES", "1")
    monkeypatch.setenv("LMCACHE_CONNECT_API_TOKN", "canary")
    with caplog.at_level(logging.WARNING, "lmcache_connect"):
        for _ in range(2):
            with ConnectorManager("memory://misspelt") as manager:
                assert manager.settings.retries == 1
        told = [record.getMessage() for record in caplog.records]
        assert told == [
            "unknown_variable variable=LMCACHE_CONNECT_OPERATION_TIMOUT did_you_mean=LMCACHE_CONNECT_OPERATION_TIMEOUT",
            "unknown_variable variable=LMCACHE_CONNECT_XYZZY did_you_mean=nothing similar is read",
        ]
        caplog.clear()
        for _ in range(2):
            with ConnectorManager("memory://misspelt") as manager:
                InternalAPIServer(manager)
        told = [record.getMessage() for record in caplog.records]
        assert told == ["unknown_variable variable=LMCACHE_CONNECT_API_TOKN did_you_mean=LMCACHE_CONNECT_API_TOKEN"]


@pytest.mark.asyncio
async def test_a_with_statement_in_a_running_loop_is_refused_at_once_and_leaves_nothing_open() -> None:
    threads = threading.active_count()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for manager in (ConnectorManager("memory://x"), ConnectorManager("memory://x", asyncio.get_running_loop())):
            with pytest.raises(SyncCallOnLoopError, match="use 'async with' there"):
                manager.__enter__()
            assert manager.connectors == ()
            assert manager.made_backend is None
            del manager
    assert threading.active_count() <= threads  # those of earlier tests may have ended meanwhile
    async with ConnectorManager("memory://x") as opened:
        connector = opened.create_connector()
        with pytest.raises(SyncCallOnLoopError), opened:
            pass
        assert await connector.exists("k") is False
