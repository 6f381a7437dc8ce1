"""Connectors around others: what they log, what they verify, how they fail, and what they refuse."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, InvalidURLError, LocalCPUBackend, StoreUnavailableError
from lmcache_connect.errors import (
    CircuitOpenError,
    InvalidConfigError,
    InvalidOptionError,
    UnknownOptionError,
    UnknownSchemeError,
    ValueTooLargeError,
)
from lmcache_connect.record import chunk_names, encode_record
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect_trials.audit_connector import AuditConnector
from lmcache_connect_trials.fault_connector import FaultConnector
from lmcache_reference_connectors import memory

from ..lmcache_connect_redis.chunks import chunk, holds

pytestmark = pytest.mark.asyncio

CONFIG = ConnectorConfig.load(operation_timeout=10, retries=0, breaker_failures=100_000)


@pytest.fixture
def backend() -> Iterator[LocalCPUBackend]:
    with LocalCPUBackend(32 << 20) as made:
        yield made
        gc.collect()
        assert made.statistics().reserved == 0, made.statistics()


@pytest_asyncio.fixture
async def manager(backend: LocalCPUBackend) -> AsyncIterator[ConnectorManager]:
    memory._stores.clear()
    async with ConnectorManager(local_cpu_backend=backend, config=CONFIG) as made:
        yield made


def audits(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The facts of every event `audit`."""
    facts = (cast(dict[str, Any], getattr(record, "connect", {})) for record in caplog.records)
    return [each for each in facts if each.get("event") == "audit"]


# ---------------------------------------------------------------------------------------------------------- audit


async def test_an_audit_tells_of_every_call_what_it_moved_and_how_it_ended(
    manager: ConnectorManager, backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    connector = manager.create_connector("audit+memory://audited")
    with caplog.at_level(logging.INFO, "lmcache_connect"), chunk(backend, "k", 5000) as obj:
        await connector.put("k", obj)
        assert holds(await connector.get("k"), "k")
        assert await connector.get("absent") is None
        assert await connector.exists("k") is True
    told = [(each["operation"], each["key"], each.get("bytes"), each["outcome"]) for each in audits(caplog)]
    assert told == [
        ("put", "k", 5000, "done"),
        ("get", "k", 5000, "hit"),
        ("get", "absent", None, "miss"),
        ("exists", "k", None, "yes"),
    ]
    assert all(each["ms"] >= 0 for each in audits(caplog))


async def test_an_audit_finds_a_chunk_that_verifies_and_is_not_what_was_put(
    manager: ConnectorManager, backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    connector = manager.create_connector("audit+memory://audited")
    inner = cast(AuditConnector, connector.wrapped)
    for key in ("a", "b"):
        with chunk(backend, key, 5000) as obj:
            await connector.put(key, obj)
    with chunk(backend, "other", 5000) as other:  # a record of its own, checksum and all
        memory._stores["memory://audited"]["a"] = encode_record("a", other)
    assert await connector.get("a") is None
    found = await connector.batched_get(["a", "b"])
    assert found[0] is None
    assert holds(found[1], "b")
    assert connector.statistics()["get"].misses["corrupt:audit"] == 1
    assert inner.verdicts == {"mismatch": 2, "verified": 1}
    assert any("audit_mismatch" in record.message for record in caplog.records if record.levelno == logging.ERROR)


async def test_lmcaches_audit_form_takes_the_url_from_the_configuration(backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(extra_config={"audit_actual_remote_url": "memory://by-configuration"})
    async with ConnectorManager(local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector("audit://host:8080?verify=true")
        with chunk(backend, "k", 100) as obj:
            await connector.put("k", obj)
    assert list(memory._stores["memory://by-configuration"]) == ["k"]
    async with ConnectorManager(local_cpu_backend=backend, config=ConnectorConfig.load()) as manager:
        with pytest.raises(InvalidConfigError, match="audit_actual_remote_url"):
            manager.create_connector("audit://host:8080")


async def test_no_secret_of_the_store_inside_is_told(
    manager: ConnectorManager, caplog: pytest.LogCaptureFixture
) -> None:
    url = "fault+audit+redis://user:canary-secret@127.0.0.1:1/?connect_timeout=1&fault_seed=1"
    with caplog.at_level(logging.DEBUG):
        connector = manager.create_connector(url)
        with pytest.raises(StoreUnavailableError) as caught:
            await connector.exists("k")
    assert "canary-secret" not in f"{caught.value}{connector!r}{connector.context!r}{manager!r}{caplog.text}"


# ------------------------------------------------------------------------------------------------------ blackhole


async def test_a_black_hole_takes_everything_and_keeps_nothing(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("blackhole://anything")
    with chunk(backend, "k", 100) as obj:
        await connector.put("k", obj)
        await connector.batched_put(["a", "b"], [obj, obj])
    assert await connector.get("k") is None
    assert await connector.batched_get(["a", "b"]) == [None, None]
    assert await connector.exists("k") is False
    assert await connector.batched_exists(["k", "a"]) == [False, False]
    assert await connector.remove("k") is False
    assert await connector.list() == [name async for name in connector.scan()] == []


# ----------------------------------------------------------------------------------------------------------- mock


async def test_a_mock_store_takes_the_time_that_it_is_told_to_and_never_blocks_the_loop(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("mock://1/?peeking_latency=20&read_throughput=0.05&write_throughput=1000")
    nbytes = 4 << 20
    with chunk(backend, "k", nbytes) as obj:
        await connector.put("k", obj)
    started = time.monotonic()
    async with LoopWatch() as watch:
        found = await connector.get("k")
    took = time.monotonic() - started
    assert holds(found, "k")
    assert took >= 0.02 + nbytes / (0.05 * (1 << 30)) * 0.9
    assert watch.longest < took / 2


async def test_a_mock_store_forgets_what_was_used_least_when_it_is_full(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    quick = "peeking_latency=0&read_throughput=1000&write_throughput=1000"
    connector = manager.create_connector(f"mock://0.001/?{quick}")  # 1 073 741 bytes
    for key in ("a", "b"):
        with chunk(backend, key, 500_000) as obj:
            await connector.put(key, obj)
    assert await connector.exists("a") is True
    with chunk(backend, "c", 500_000) as obj:
        await connector.put("c", obj)
    assert await connector.batched_exists(["a", "b", "c"]) == [True, False, True]
    with chunk(backend, "d", 2_000_000) as obj, pytest.raises(ValueTooLargeError):
        await connector.put("d", obj)


@pytest.mark.parametrize("url", ["mock://", "mock://many/", "mock://1,2/", "mock://user@1/", "mock://0/"])
async def test_a_mock_store_without_a_capacity_is_refused(manager: ConnectorManager, url: str) -> None:
    with pytest.raises(InvalidURLError, match="capacity"):
        manager.create_connector(url)


# ---------------------------------------------------------------------------------------------------------- fault


async def outcomes(manager: ConnectorManager, url: str, calls: int = 60) -> list[bool]:
    connector = manager.create_connector(url)
    ended: list[bool] = []
    for _ in range(calls):
        try:
            await connector.exists("k")
            ended.append(True)
        except StoreUnavailableError:
            ended.append(False)
    return ended


async def test_a_seed_puts_the_same_errors_into_the_same_calls(manager: ConnectorManager) -> None:
    url = "fault+memory://faulty?fault_error_rate=0.3&fault_seed={}"
    first = await outcomes(manager, url.format(5))
    assert 5 < first.count(False) < 35
    assert await outcomes(manager, url.format(5)) == first
    assert await outcomes(manager, url.format(6)) != first


async def test_faults_come_into_the_operations_that_are_named_alone(
    manager: ConnectorManager, backend: LocalCPUBackend
) -> None:
    connector = manager.create_connector("fault+memory://faulty?fault_error_rate=1&fault_on=get,batched_get")
    with chunk(backend, "k", 100) as obj:
        await connector.put("k", obj)
    assert await connector.exists("k") is True
    with pytest.raises(StoreUnavailableError):
        await connector.get("k")
    with pytest.raises(StoreUnavailableError):
        await connector.batched_get(["k"])


async def test_retries_and_the_circuit_breaker_see_an_injected_error_as_a_lost_store(
    backend: LocalCPUBackend,
) -> None:
    config = ConnectorConfig.load(retries=3, retry_backoff=0.001, breaker_failures=2, breaker_reset=60)
    async with ConnectorManager(local_cpu_backend=backend, config=config) as manager:
        connector = manager.create_connector("fault+memory://faulty?fault_error_rate=1")
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await connector.exists("k")
        assert connector.statistics()["exists"].retries == 6
        with pytest.raises(CircuitOpenError):
            await connector.exists("k")


async def test_under_a_storm_of_faults_and_cancellations_nothing_wrong_is_read_and_nothing_leaks(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    plain = manager.create_connector(valkey_url)
    keys = [f"k{index}" for index in range(12)]
    for key in keys:
        with chunk(backend, key, 200_000) as obj:
            await plain.put(key, obj)
    faults = "fault_error_rate=0.1&fault_reset_rate=0.4&fault_reset_within=0.004&fault_delay_rate=0.2&fault_delay=0.002"
    connector = manager.create_connector(f"fault+{valkey_url}?io=thread&stripe=65536&{faults}&fault_seed=3")
    chosen = random.Random(11)

    async def call() -> None:
        wanted = chosen.sample(keys, 3)
        task = asyncio.ensure_future(connector.batched_get(wanted))
        if chosen.random() < 0.3:
            await asyncio.sleep(chosen.random() * 0.004)
            task.cancel()
        try:
            found = await task
        except (StoreUnavailableError, asyncio.CancelledError):
            return
        assert [holds(obj, key) for obj, key in zip(found, wanted, strict=True)] == [True] * 3

    for _ in range(12):
        await asyncio.gather(*(call() for _ in range(6)))
    injected = cast(FaultConnector, connector.wrapped).injected
    assert min(injected[kind] for kind in ("error", "reset", "delay")) > 0
    assert [holds(await plain.get(key), key) for key in keys] == [True] * len(keys)


# ---------------------------------------------------------------------------------------------------------- names


async def test_a_wrapper_goes_around_any_scheme_that_the_manager_knows_and_no_other(manager: ConnectorManager) -> None:
    with pytest.raises(UnknownSchemeError, match="nothing"):
        manager.create_connector("fault+nothing://host")
    with pytest.raises(UnknownSchemeError):
        manager.create_connector("fault://host")
    with pytest.raises(UnknownSchemeError):
        manager.create_connector("other+memory://host")
    assert {"fault+<scheme>", "audit+<scheme>", "audit", "mock", "blackhole"} <= set(manager.registry.schemes())


@pytest.mark.parametrize("url", ["fault+fault+memory://x", "audit+fault+audit+memory://x"])
async def test_a_kind_of_wrapper_stands_around_a_store_once(manager: ConnectorManager, url: str) -> None:
    with pytest.raises(InvalidURLError, match="once"):
        manager.create_connector(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("fault+memory://x?fault_error_rate=2", InvalidOptionError),
        ("fault+memory://x?fault_on=gets", InvalidOptionError),
        ("fault+memory://x?fault_unheard_of=1", UnknownOptionError),
        ("fault+memory://x?unheard_of=1", UnknownOptionError),
        ("audit+memory://x?audit_remembered=0", InvalidOptionError),
        ("mock://1/?latency=5", UnknownOptionError),
    ],
)
async def test_an_option_that_nobody_has_is_refused(
    manager: ConnectorManager, url: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        manager.create_connector(url)


async def test_options_of_the_store_inside_reach_it(
    manager: ConnectorManager, backend: LocalCPUBackend, valkey_server: ValkeyServer, valkey_url: str
) -> None:
    connector = manager.create_connector(f"audit+fault+{valkey_url}?prefix=tenant&fault_seed=1&audit_verify=false")
    with chunk(backend, "k", 100) as obj:
        await connector.put("k", obj)
    with valkey_server.client() as client:
        assert client.exists(*chunk_names("tenant:", ["k"])) == 1
