"""What each route says about a real store, and does with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from lmcache_connect import ConnectorConfig, LocalCPUBackend
from lmcache_connect.oversight import HealthCheck
from lmcache_connect.testing import ValkeyServer

from .conftest import Served, serving

QUICK = ConnectorConfig.load(operation_timeout=2, retries=0, breaker_failures=2, breaker_reset=60)


# ------------------------------------------------------------------------------------------------------ common


@pytest.mark.asyncio
async def test_readiness_pings_the_stores_and_says_when_one_is_gone(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with serving(server.url(), local_cpu_backend, QUICK) as served:
            answer = await served.client.get("/health/ready")
            assert answer.status_code == 200
            assert answer.json()["status"] == "ready"
            (store,) = answer.json()["stores"]
            assert store["connector"] == "redis-1"
            assert store["health"] == "ok"
            assert store["seconds"] < 1
            server.kill()
            with anyio.fail_after(5):
                while (answer := await served.client.get("/health/ready")).status_code == 200:
                    await asyncio.sleep(0.02)
            assert answer.status_code == 503
            assert answer.json() == {
                "status": "not_ready",
                "stores": [
                    {
                        "connector": "redis-1",
                        "health": "failing",
                        "seconds": None,
                        "error": "StoreUnavailableError",
                        "advice": "the store cannot be reached, or closes connections: look at it and at the network",
                        "trouble": [],
                    }
                ],
            }
            assert (await served.client.get("/health/live")).status_code == 200
            server.restart()
            with anyio.fail_after(5):
                while (await served.client.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.02)


@pytest.mark.asyncio
async def test_readiness_has_a_deadline_when_a_store_hangs(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with serving(server.url(), local_cpu_backend, ready_timeout=0.2) as served:
            assert (await served.client.get("/health/ready")).status_code == 200
            server.pause()
            try:
                with anyio.fail_after(5):
                    while (answer := await served.client.get("/health/ready")).status_code == 200:
                        await asyncio.sleep(0.02)
                assert answer.json()["stores"][0]["error"] == "OperationTimeoutError"
            finally:
                server.resume()


async def ready(served: Served) -> tuple[int, dict[str, Any]]:
    """What a new look at the stores says: the status, and the document."""
    served.server.state.health = HealthCheck(served.manager, freshness=0)
    answer = await served.client.get("/health/ready")
    return answer.status_code, answer.json()


@pytest.mark.asyncio
async def test_a_store_that_drops_every_put_is_degraded_and_told_why_until_a_put_succeeds(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with ValkeyServer(maxmemory="1mb", config={"maxmemory-policy": "noeviction"}) as server:
        config = ConnectorConfig.load(errors="miss", retries=0)
        async with serving(server.url(), local_cpu_backend, config) as served:
            before = time.time()
            for number in range(40):
                await served.put(str(number), nbytes=100_000)
            status, found = await ready(served)
            assert (status, found["status"]) == (200, "degraded")
            (store,) = found["stores"]
            assert (store["health"], store["error"]) == ("degraded", "StoreFullError")
            (trouble,) = store["trouble"]
            assert (trouble["operation"], trouble["error"]) == ("put", "StoreFullError")
            assert before <= trouble["since"] <= time.time()
            assert trouble["failures"] == trouble["calls"] >= 20
            assert "maxmemory" in trouble["advice"]
            (shown,) = (await served.client.get("/status")).json()["stores"]
            assert shown["health"] == "degraded"
            assert "maxmemory is reached" in shown["trouble"][0]["detail"]
            assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1

            with server.client() as client:
                client.config_set("maxmemory", "100mb")
            await served.put("a", nbytes=100_000)
            assert (await ready(served))[1]["status"] == "degraded"  # one success among forty failures
            for _ in range(400):
                await served.put("a")
            assert (await ready(served))[1]["status"] == "ready"


@pytest.mark.asyncio
async def test_a_replica_is_degraded(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as primary, ValkeyServer(config={"replicaof": f"127.0.0.1 {primary.port}"}) as replica:
        config = ConnectorConfig.load(errors="miss", retries=0)
        async with serving(replica.url(), local_cpu_backend, config) as served:
            await served.put("a")
            status, found = await ready(served)
            assert (status, found["status"]) == (200, "degraded")
            assert found["stores"][0]["error"] == "ReadOnlyStoreError"
            assert "primary" in found["stores"][0]["trouble"][0]["advice"]


@pytest.mark.asyncio
async def test_looking_at_a_dead_store_counts_no_operation_and_is_told_once(
    local_cpu_backend: LocalCPUBackend, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving("redis://127.0.0.1:1", local_cpu_backend, QUICK) as served:
        for _ in range(3):
            await ready(served)
            assert (await served.client.get("/controller/workers")).json()["unread"] == ["redis-1"]
        (store,) = (await served.client.get("/status")).json()["stores"]
        assert store["health"] == "failing"
        assert store["connector"]["statistics"] == {}
        facts = [getattr(record, "connect", {}) for record in caplog.records]
        told = [line["operation"] for line in facts if line.get("event") == "operation_failed"]
        assert sorted(told) == ["announced", "ping"]


@pytest.mark.asyncio
async def test_however_many_ask_for_readiness_a_store_is_asked_twice_a_second_at_most(
    served: Served, valkey_server: ValkeyServer
) -> None:
    with valkey_server.client() as client:
        before = client.info("commandstats").get("cmdstat_ping", {"calls": 0})["calls"]
        await asyncio.gather(*(served.client.get("/health/ready") for _ in range(50)))
        assert client.info("commandstats")["cmdstat_ping"]["calls"] - before <= 2
    assert "ping" not in served.connector.statistics()


@pytest.mark.asyncio
async def test_what_an_operator_closed_or_bypassed_is_not_unready(served: Served) -> None:
    served.connector.bypass = True
    answer = await served.client.get("/health/ready")
    assert (answer.status_code, answer.json()["stores"][0]["health"]) == (200, "bypassed")
    served.connector.bypass = False


@pytest.mark.asyncio
async def test_the_configuration_in_effect_is_shown(valkey_url: str, local_cpu_backend: LocalCPUBackend) -> None:
    config = ConnectorConfig.load(
        operation_timeout=3, extra_config={"a.class_name": "Kept", "a.number": 7, "a.text": "x"}
    )
    async with serving(valkey_url, local_cpu_backend, config, token="0123456789abcdef") as served:
        shown = (await served.client.get("/config")).json()
    assert shown["settings"]["operation_timeout"] == 3
    assert shown["settings"]["extra_config"] == {"a.class_name": "Kept", "a.number": 7, "a.text": "***"}
    assert shown["server"]["token"] == "***"
    assert shown["server"]["request_timeout"] == 30


@pytest.fixture
def restored_level() -> Iterator[logging.Logger]:
    logger = logging.getLogger("lmcache_connect")
    before = logger.level
    yield logger
    logger.setLevel(before)


@pytest.mark.asyncio
async def test_a_log_level_is_read_and_changed(served: Served, restored_level: logging.Logger) -> None:
    answer = await served.client.put("/log-levels/lmcache_connect", json={"level": "DEBUG"})
    assert answer.json() == {"logger": "lmcache_connect", "level": "DEBUG", "effective": "DEBUG"}
    assert restored_level.level == logging.DEBUG
    listed = (await served.client.get("/log-levels")).json()["loggers"]
    assert {"logger": "lmcache_connect", "level": "DEBUG", "effective": "DEBUG"} in listed
    answer = await served.client.put("/log-levels/lmcache_connect", json={"level": "NOTSET"})
    assert answer.json()["level"] == "NOTSET"


@pytest.mark.parametrize("name", ["root", "botocore", "lmcache_connectx", "lmcache_connect.of_nobody"])
@pytest.mark.asyncio
async def test_loggers_of_others_and_those_that_do_not_exist_are_left_alone(served: Served, name: str) -> None:
    logging.getLogger("botocore")
    answer = await served.client.put(f"/log-levels/{name}", json={"level": "DEBUG"})
    assert answer.status_code == 404
    assert "lmcache_connect.of_nobody" not in logging.root.manager.loggerDict
    assert logging.getLogger("botocore").level == logging.NOTSET


@pytest.mark.asyncio
async def test_an_unknown_level_is_refused_with_what_was_expected(served: Served) -> None:
    answer = await served.client.put("/log-levels/lmcache_connect", json={"level": "LOUD"})
    assert answer.status_code == 422
    assert "'DEBUG'" in answer.json()["detail"]
    assert "LOUD" not in answer.text


@pytest.mark.asyncio
async def test_tasks_and_threads_are_shown_with_where_they_wait(served: Served) -> None:
    async def waits_for_a_test() -> None:
        await asyncio.Event().wait()

    secret = "hunter2"
    task = asyncio.create_task(waits_for_a_test(), name="a task of the test")
    await asyncio.sleep(0)
    tasks = (await served.client.get("/tasks")).json()
    (found,) = [item for item in tasks["tasks"] if item["name"] == "a task of the test"]
    assert found["coroutine"].endswith("waits_for_a_test")
    functions = [frame["function"] for frame in found["stack"]]
    assert functions[0].startswith("Event.wait")
    assert functions[-1].endswith("waits_for_a_test")
    task.cancel()
    threads = await served.client.get("/threads")
    (main,) = [item for item in threads.json()["threads"] if item["name"] == "MainThread"]
    assert any(frame["function"] == "threads" for frame in main["stack"])
    assert secret not in threads.text


# -------------------------------------------------------------------------------------------------------- vllm


@pytest.mark.asyncio
async def test_connectors_are_listed_with_what_they_did(served: Served) -> None:
    await served.put("a", nbytes=100)
    await served.connector.exists("b")
    (found,) = (await served.client.get("/vllm/connectors")).json()["connectors"]
    assert (found["name"], found["kind"], found["state"]) == ("redis-1", "RedisConnector", "open")
    assert (found["breaker"], found["bypass"], found["in_flight"]) == ("closed", False, 0)
    assert (found["abandoned_calls"], found["abandoned_bytes"]) == (0, 0)
    assert (found["damaged_records"], found["removals_suspended"]) == ({}, False)
    assert found["statistics"]["put"]["bytes"] == 100
    assert found["statistics"]["exists"]["misses"] == {"absent": 1}
    assert found == (await served.client.get("/vllm/connectors/redis-1")).json()


@pytest.mark.asyncio
async def test_an_unknown_connector_is_not_found_and_the_known_are_named(served: Served) -> None:
    for method, path in [("GET", ""), ("POST", "/close"), ("POST", "/recreate")]:
        answer = await served.client.request(method, f"/vllm/connectors/redis-9{path}")
        assert answer.status_code == 404
        assert "expected one of redis-1" in answer.json()["detail"]


@pytest.mark.asyncio
async def test_a_connector_is_closed_and_recreated_under_the_applications_hands(served: Served) -> None:
    await served.put("a")
    closed = await served.client.post("/vllm/connectors/redis-1/close", json={"grace": 1})
    assert closed.json()["state"] == "closed"
    assert (await served.client.post("/vllm/connectors/redis-1/close")).json()["state"] == "closed"
    assert (await served.client.get("/health/ready")).json()["stores"][0]["health"] == "closed"
    refused = await served.client.get("/vllm/lookup", params={"key": "a", "connector": "redis-1"})
    assert (refused.status_code, refused.json()["problem"]) == (409, "ConnectorClosedError")
    reopened = await served.client.post("/vllm/connectors/redis-1/recreate")
    assert reopened.json()["state"] == "open"
    assert await served.connector.exists("a")


@pytest.mark.asyncio
async def test_a_bypass_is_switched_on_and_off(served: Served) -> None:
    await served.put("a")
    on = await served.client.put("/vllm/connectors/redis-1/bypass", json={"enabled": True})
    assert on.json()["bypass"] is True
    assert await served.connector.get("a") is None
    off = await served.client.put("/vllm/connectors/redis-1/bypass", json={"enabled": False})
    assert off.json()["bypass"] is False
    assert await served.connector.exists("a")


@pytest.mark.asyncio
async def test_a_look_up_counts_the_prefix_without_a_gap(served: Served) -> None:
    await served.put("a", "b", "d")
    answer = (await served.client.get("/vllm/lookup", params={"key": ["a", "b", "c", "d"]})).json()
    assert answer == {"connector": "redis-1", "keys": 4, "hit_prefix": 2, "found": [True, True, False, True]}
    many = [f"key-{number}" for number in range(5000)]
    answer = (await served.client.post("/vllm/lookup", json={"keys": ["a", "b", *many]})).json()
    assert (answer["keys"], answer["hit_prefix"]) == (5002, 2)


@pytest.mark.parametrize("keys", [[], [""], ["a" * 5000], ["a"] * 10_001, "a", [1], None])
@pytest.mark.asyncio
async def test_a_look_up_of_no_key_or_too_many_is_refused(served: Served, keys: object) -> None:
    answer = await served.client.post("/vllm/lookup", json={"keys": keys})
    assert (answer.status_code, answer.json()["problem"]) == (422, "invalid_request")


@pytest.mark.asyncio
async def test_a_key_that_cannot_be_one_is_refused_by_its_own_error(served: Served) -> None:
    answer = await served.client.post(
        "/vllm/lookup", content=rb'{"keys": ["\ud800"]}', headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


@pytest.mark.asyncio
async def test_a_look_up_names_its_connector_where_there_are_several(served: Served) -> None:
    served.manager.create_connector("memory://second")
    answer = await served.client.get("/vllm/lookup", params={"key": "a"})
    assert (answer.status_code, answer.json()["problem"]) == (409, "ambiguous_connector")
    assert "redis-1, memory-1" in answer.json()["detail"]
    answer = await served.client.get("/vllm/lookup", params={"key": "a", "connector": "memory-1"})
    assert answer.json()["connector"] == "memory-1"


@pytest.mark.asyncio
async def test_a_store_that_fails_is_a_bad_gateway_with_its_typed_error(local_cpu_backend: LocalCPUBackend) -> None:
    with ValkeyServer() as server:
        async with serving(server.url(), local_cpu_backend, QUICK) as served:
            server.kill()
            answer = await served.client.get("/vllm/lookup", params={"key": "a"})
            assert (answer.status_code, answer.json()["problem"]) == (502, "StoreUnavailableError")
            await served.client.get("/vllm/lookup", params={"key": "a"})
            answer = await served.client.get("/vllm/lookup", params={"key": "a"})
            assert answer.json()["problem"] == "CircuitOpenError"
            found = (await served.client.get("/vllm/connectors/redis-1")).json()
            assert found["breaker"] == "open"
            assert found["statistics"]["batched_exists"]["errors"] == {
                "StoreUnavailableError": 2,
                "CircuitOpenError": 1,
            }


def cache(served: Served, *keys: str) -> None:
    for key in keys:
        chunk = served.backend.allocate((4096,), "uint8")
        assert chunk is not None
        with chunk:
            served.backend.submit_put_task(key, chunk)


@pytest.mark.asyncio
async def test_the_hot_cache_is_shown_switched_and_cleared(served: Served) -> None:
    cache(served, "a", "b")
    shown = (await served.client.get("/vllm/hot-cache")).json()
    assert (shown["enabled"], shown["chunks"], shown["bytes"]) == (True, 2, 8192)
    assert shown["arena_capacity"] == served.backend.statistics().capacity
    assert (await served.client.put("/vllm/hot-cache", json={"enabled": False})).json()["enabled"] is False
    cache(served, "c")
    assert not served.backend.contains("c")
    assert (await served.client.put("/vllm/hot-cache", json={"enabled": True})).json()["enabled"] is True
    cleared = (await served.client.post("/vllm/hot-cache/clear")).json()
    assert (cleared["dropped"], cleared["hot_cache"]["chunks"]) == (2, 0)


@pytest.mark.asyncio
async def test_clearing_by_prefix_is_a_dry_run_unless_it_is_told_otherwise(served: Served) -> None:
    await served.put("m1@a", "m1@b", "m2@a")
    cache(served, "m1@a", "m2@a")
    dry = (await served.client.post("/vllm/cache/clear", json={"prefix": "m1@"})).json()
    assert dry["dry_run"] is True
    assert [(place["location"], place["matched"], place["removed"]) for place in dry["locations"]] == [
        ("redis-1", 2, 0),
        ("hot-cache", 1, 0),
    ]
    assert sorted(await served.connector.list()) == ["m1@a", "m1@b", "m2@a"]
    wet = (await served.client.post("/vllm/cache/clear", json={"prefix": "m1@", "dry_run": False})).json()
    assert [(place["location"], place["removed"], place["complete"]) for place in wet["locations"]] == [
        ("redis-1", 2, True),
        ("hot-cache", 0, True),  # dropped already, with the store's removal of the key
    ]
    assert await served.connector.list() == ["m2@a"]
    assert served.backend.get_keys() == ["m2@a"]


@pytest.mark.asyncio
async def test_clearing_everything_has_to_be_said(served: Served) -> None:
    await served.put("a")
    refused = await served.client.post("/vllm/cache/clear", json={"prefix": "", "dry_run": False})
    assert (refused.status_code, refused.json()["problem"]) == (422, "empty_prefix")
    assert await served.connector.exists("a")
    body = {"prefix": "", "dry_run": False, "everything": True, "locations": ["redis-1"]}
    done = (await served.client.post("/vllm/cache/clear", json=body)).json()
    assert [place["removed"] for place in done["locations"]] == [1]


@pytest.mark.asyncio
async def test_clearing_stops_at_its_limit_and_says_that_there_is_more(served: Served) -> None:
    await served.put("a", "b", "c")
    body = {"prefix": "", "dry_run": False, "everything": True, "limit": 2}
    first = (await served.client.post("/vllm/cache/clear", json=body)).json()["locations"][0]
    assert (first["removed"], first["complete"]) == (2, False)
    second = (await served.client.post("/vllm/cache/clear", json=body)).json()["locations"][0]
    assert (second["removed"], second["complete"]) == (1, True)


@pytest.mark.asyncio
async def test_clearing_of_a_place_that_does_not_exist_clears_nothing(served: Served) -> None:
    await served.put("a")
    body = {"prefix": "a", "dry_run": False, "locations": ["redis-1", "redis-9"]}
    answer = await served.client.post("/vllm/cache/clear", json=body)
    assert answer.status_code == 404
    assert await served.connector.exists("a")


@pytest.mark.asyncio
async def test_the_status_has_everything_at_a_glance(served: Served) -> None:
    await served.put("a")
    status = (await served.client.get("/status")).json()
    (store,) = status["stores"]
    assert store["health"] == "ok"
    assert store["ping_seconds"] > 0
    assert store["connector"]["statistics"]["put"]["calls"] == 1
    assert status["hot_cache"]["enabled"] is True
    assert status["now"] >= status["started"]


@pytest.mark.asyncio
async def test_get_never_changes_state(served: Served) -> None:
    await served.put("a")
    cache(served, "a")
    before = (served.connector.bypass, served.backend.hot_cache_enabled, await served.connector.list())
    for path, methods in served.server.app.openapi()["paths"].items():
        if "get" in methods:
            await served.client.get(path.replace("{name}", "redis-1"), params={"key": "a"})
        else:
            assert (await served.client.get(path.replace("{name}", "redis-1"))).status_code == 405
    assert before == (served.connector.bypass, served.backend.hot_cache_enabled, await served.connector.list())
    assert not served.connector.is_closed
