"""The dashboard and the alert rules: a real Prometheus fills every panel, and understands every rule."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
import pytest_asyncio

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.engines.jobs import JobPort
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.oversight import HealthCheck, ManagerMetrics
from lmcache_connect.testing import ValkeyServer

from .prometheus import Prometheus
from .test_metrics import Scrape

GRAFANA: Final = Path(__file__).parents[2] / "docs" / "grafana"
RUNBOOK: Final = GRAFANA.parent / "runbook.md"
PROMTOOL: Final = shutil.which("promtool")
VARIABLES: Final = {"$connector": ".*", "$job": ".*", "$instance": ".*", "$__rate_interval": "5s"}
"""What Grafana would put in their place."""

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")


def expressions() -> dict[str, str]:
    """What the dashboard asks, by panel and letter."""
    panels = json.loads((GRAFANA / "lmcache-connect.json").read_text())["panels"]
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        for panel in panels
        for target in panel.get("targets", [])
    }


def filled_in(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


def alerts() -> dict[str, str]:
    """The expression of each alert, by name."""
    text = (GRAFANA / "alerts.yaml").read_text()
    blocks = re.split(r"\n      - alert: ", text)[1:]
    return {block.split("\n", 1)[0]: block for block in blocks}


def metrics_in(text: str) -> set[str]:
    found = set(re.findall(r"\blmcache_connect_\w+", text))
    return {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in found}


async def use(connector: ManagedConnector, damaged: str, backend: LocalCPUBackend) -> None:
    """Calls of every kind, also such as fail, until it is cancelled."""
    while True:
        for key in ("a", "b"):
            chunk = backend.allocate((4096,), "uint8")
            assert chunk is not None
            with chunk:
                await connector.put(key, chunk)
        for key in ("a", "absent", damaged):
            got = await connector.get(key)
            if got is not None:
                got.ref_count_down()
        await connector.batched_exists(["a", "b"])
        await connector.remove("b")
        await asyncio.sleep(0.01)


async def work_on(port: JobPort) -> None:
    """Jobs of each kind, until it is cancelled."""
    while True:
        await anyio.to_thread.run_sync(work, port)


def work(port: JobPort) -> None:
    for job in (
        port.submit_put(["a"], [bytes(100)]),
        port.submit_get(["a"], [bytearray(100)]),
        port.submit_exists(["a"]),
        port.submit_remove(["a"]),
    ):
        assert port.wait(job) is not None


@pytest_asyncio.fixture
async def prometheus(local_cpu_backend: LocalCPUBackend) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes two busy processes: one with stores of every kind, and an engine's."""
    config = ConnectorConfig.load(errors="miss", retries=1, retry_backoff=0.001, breaker_failures=3, breaker_reset=60)
    async with AsyncExitStack() as stack:
        one, two = (stack.enter_context(ValkeyServer(maxmemory="64mb")) for _ in range(2))
        manager = await stack.enter_async_context(ConnectorManager(None, None, local_cpu_backend, config))
        live = manager.create_connector(f"hot+{one.url()}")
        dead = manager.create_connector("redis://127.0.0.1:1")
        manager.create_connector(f"redis-ring://127.0.0.1:{one.port},127.0.0.1:{two.port}")
        plain = manager.create_connector(f"{one.url()}?prefix=damaged")
        port = stack.enter_context(_closing(JobPort(two.url())))
        servers = [
            await stack.enter_async_context(InternalAPIServer(each, APIServerConfig.load(thread=True)))
            for each in (manager, port.manager)
        ]
        with local_cpu_backend.allocate((4096,), "uint8") or pytest.fail("no room") as chunk:
            await plain.put("torn", chunk)
        with one.client() as client:
            (name,) = (key for key in client.keys("damaged:*"))
            client.setrange(name, 200, b"something else")
        uses = [asyncio.create_task(use(connector, "torn", local_cpu_backend)) for connector in (live, dead, plain)]
        scraping = Prometheus([_target(server) for server in servers], GRAFANA / "alerts.yaml")
        await anyio.to_thread.run_sync(scraping.start)
        try:
            uses.append(asyncio.create_task(work_on(port)))
            yield scraping
        finally:
            for task in uses:
                task.cancel()
            await asyncio.wait(uses)
            await anyio.to_thread.run_sync(scraping.stop)


class _closing:  # noqa: N801 - contextlib's `closing`, with a grace
    def __init__(self, port: JobPort) -> None:
        self._port = port

    def __enter__(self) -> JobPort:
        return self._port

    def __exit__(self, *_: object) -> None:
        self._port.close(grace=0)


def _target(server: InternalAPIServer) -> str:
    return str(server.address).removeprefix("http://")


@pytest.mark.skipif(Prometheus.path() is None, reason="Prometheus is not installed: apt-get install prometheus")
@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_a_real_prometheus_fills_every_panel_and_understands_every_rule(prometheus: Prometheus) -> None:
    left = expressions()
    assert len(left) > 50
    with anyio.move_on_after(20):
        while left:
            for name, expression in [*left.items()]:
                series = await anyio.to_thread.run_sync(prometheus.query, filled_in(expression))
                if any(sample["value"][1] != "NaN" for sample in series):
                    del left[name]
            await asyncio.sleep(0.1)
    assert left == {}
    rules = await anyio.to_thread.run_sync(prometheus.rules)
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(alerts())
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] == "err"] == []
    told = {rule["name"] for rule in rules if rule.get("state") in {"pending", "firing"}}
    assert {"LMCacheConnectStoreDown", "LMCacheConnectDamagedRecords"} <= told


@needs_promtool
def test_the_rules_are_valid_and_say_what_their_unit_tests_expect() -> None:
    for command in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]):
        done = subprocess.run([str(PROMTOOL), *command], cwd=GRAFANA, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_unit_tests_and_a_section_of_the_runbook_which_its_link_leads_to() -> None:
    tests, runbook = (GRAFANA / "alerts.test.yaml").read_text(), RUNBOOK.read_text()
    sections = dict(re.findall(r"^## (LMCacheConnect\w+)\n(.*?)(?=^## |\Z)", runbook, flags=re.MULTILINE | re.DOTALL))
    assert set(sections) == set(alerts())
    for name, rule in alerts().items():
        assert f'alertname="{name}"' in tests
        assert f'runbook_url: "runbook.md#{name.lower()}"' in rule
        assert "action: " in rule
        for part in ("**You see**", "**Confirm**", "**Do**", "**It is over**"):
            assert part in sections[name], (name, part)


@pytest.mark.asyncio
async def test_the_rules_and_the_dashboard_use_no_metric_that_does_not_exist(
    valkey_url: str, local_cpu_backend: LocalCPUBackend
) -> None:
    async with ConnectorManager(valkey_url, None, local_cpu_backend) as manager:
        await manager.create_connector().exists("a")
        health = HealthCheck(manager)
        await health.check(5)
        names = Scrape(ManagerMetrics(manager, health).render()[0].decode()).names
    used: dict[str, Any] = {**alerts(), **expressions()}
    assert {name: metrics_in(text) - names for name, text in used.items() if metrics_in(text) - names} == {}
    assert names - metrics_in(" ".join(expressions().values())) == set()
