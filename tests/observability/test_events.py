"""A log line is one line, of bounded length, whatever a key or a server's words hold."""

from __future__ import annotations

import logging

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager, LMCacheConnectError, LocalCPUBackend
from lmcache_connect.known_secrets import Holder, know
from lmcache_connect.observability import event

from ..secrets.peers import listening


def test_a_fact_makes_no_line_of_its_own_and_moves_no_cursor(caplog: pytest.LogCaptureFixture) -> None:
    event(logging.WARNING, "test", key="a\nERROR all is lost\r\x1b[2K\u2028\u202eb", count=3)
    record = caplog.records[-1]
    assert record.getMessage() == r"test key=a\nERROR all is lost\r\x1b[2K\u2028\u202eb count=3"
    assert vars(record)["connect"] == {
        "event": "test",
        "key": r"a\nERROR all is lost\r\x1b[2K\u2028\u202eb",
        "count": 3,
    }


def test_a_fact_is_cut_and_says_how_long_it_was(caplog: pytest.LogCaptureFixture) -> None:
    event(logging.WARNING, "test", key="x" * 100_000)
    assert len(caplog.messages[-1]) < 2100
    assert caplog.messages[-1].endswith("... (100000 characters)")


def test_a_secret_that_lies_across_the_cut_is_not_seen_in_part(caplog: pytest.LogCaptureFixture) -> None:
    owner = know(Holder(), "hunter2-canary-42")
    event(logging.WARNING, "test", key="x" * 1995 + "hunter2-canary-42")
    assert "hunt" not in caplog.text
    del owner


@pytest.mark.asyncio
async def test_the_words_of_a_server_stay_in_their_line(
    caplog: pytest.LogCaptureFixture, local_cpu_backend: LocalCPUBackend
) -> None:
    async with listening(lambda _: b"-NOAUTH \x1b[31m\nWARNING forged\x07 \xe2\x80\xa8line\r\n") as port:
        config = ConnectorConfig.load(retries=0)
        async with ConnectorManager(f"redis://127.0.0.1:{port}", None, local_cpu_backend, config) as manager:
            with pytest.raises(LMCacheConnectError) as caught:
                await manager.create_connector().exists("a")
    assert "forged" in str(caught.value)
    assert str(caught.value).isprintable()
    ours = [record.getMessage() for record in caplog.records if record.name == "lmcache_connect"]
    assert any("forged" in line for line in ours)
    assert [line for line in ours if not line.isprintable()] == []
