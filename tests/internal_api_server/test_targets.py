"""Several workers of one application: each is found, and the sum of their metrics is what the application did."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import httpx
import pytest

from lmcache_connect import ConnectorConfig, LocalCPUBackend
from lmcache_connect.contract import WorkerAnnouncement
from lmcache_connect.testing import ValkeyServer

from ..oversight.test_metrics import Scrape
from .conftest import Served, serving

PAGE: Final = Path(__file__).parents[2] / "docs" / "metrics.md"
SOON: Final = ConnectorConfig.load(announce_interval=0.2)


async def targets(served: Served, count: int) -> list[dict[str, Any]]:
    """Where the workers are, as soon as there are so many."""
    with anyio.fail_after(15):
        while len(found := (await served.client.get("/controller/targets")).json()) != count:
            await asyncio.sleep(0.02)
    return list(found)


@pytest.mark.asyncio
async def test_workers_that_serve_are_told_as_prometheus_wants_it_and_others_are_left_out(
    local_cpu_backend: LocalCPUBackend,
) -> None:
    with ValkeyServer() as store:
        async with serving(store.url(), local_cpu_backend, SOON) as one:
            await one.put("a")
            (alone,) = await targets(one, 1)
            assert alone["targets"] == [(one.server.address or "").removeprefix("http://")]
            assert set(alone["labels"]) == {"worker"}
            async with serving(store.url(), local_cpu_backend, SOON) as two:
                await two.put("b")
                both = await targets(one, 2)
                assert alone in both
                assert sorted(both, key=str) == sorted(await targets(two, 2), key=str)
                for name, api in (
                    ("everywhere", "http://0.0.0.0:81"),
                    ("at-a-socket", "unix:/run/api.sock"),
                    ("with-a-path", "http://evil.example:80/steal?"),
                    ("with-a-user", "http://a@evil.example:80"),
                    ("with-another-host", "http://0.0.0.0:82"),
                    ("without", None),
                ):
                    host = "a@evil.example/steal?" if name == "with-another-host" else "their.host"
                    said = WorkerAnnouncement(
                        worker=name, host=host, pid=1, version="1", started=1, announced=1, api=api
                    )
                    await one.connector.announce(name, said.encode(), 60)
                found = await targets(one, 3)
                assert [each["targets"] for each in found if each["labels"]["worker"] == "everywhere"] == [
                    ["their.host:81"]
                ]
            assert len(await targets(one, 2)) == 2


@pytest.mark.asyncio
async def test_a_worker_that_has_announced_nothing_yet_tells_itself(local_cpu_backend: LocalCPUBackend) -> None:
    async with serving("redis://127.0.0.1:1", local_cpu_backend) as served:
        (alone,) = await targets(served, 1)
        assert alone["targets"] == [(served.server.address or "").removeprefix("http://")]


def three_workers(folder: Path, port: int, url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--workers", "3", "--port", str(port), "--log-level", "error"],
        cwd=folder,
        env={**os.environ, "LMCACHE_CONNECT_URL": url},
    )


@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.asyncio
async def test_the_application_of_the_page_with_three_workers_of_uvicorn_adds_up(
    tmp_path: Path, local_cpu_backend: LocalCPUBackend
) -> None:
    section = PAGE.read_text().split("## Several workers")[1]
    (program,) = re.findall(r"```python\n(.*?)```", section.split("\n## ")[0], flags=re.DOTALL)
    (tmp_path / "app.py").write_text(program)
    with socket.create_server(("127.0.0.1", 0)) as listener, ValkeyServer() as store:
        port = listener.getsockname()[1]
        listener.close()
        workers = three_workers(tmp_path, port, store.url())
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                made = 0
                with anyio.fail_after(60):
                    while not made:
                        try:
                            made += (await client.get("/known/a")).status_code == 200
                        except httpx.TransportError:
                            await asyncio.sleep(0.1)
            async with serving(store.url(), local_cpu_backend) as beside:
                found: list[dict[str, Any]] = []
                with anyio.fail_after(60):
                    while len(found) < 4:
                        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                            made += (await client.get("/known/a")).status_code == 200  # of any worker
                        found = (await beside.client.get("/controller/targets")).json()
                calls = 0.0
                async with httpx.AsyncClient(trust_env=False) as client:
                    for (address,) in (each["targets"] for each in found):
                        if address != (beside.server.address or "").removeprefix("http://"):
                            scrape = Scrape((await client.get(f"http://{address}/metrics")).text)
                            calls += scrape("operations_total", connector="redis-1", operation="exists")
                assert calls == made
        finally:
            workers.send_signal(signal.SIGTERM)
            await anyio.to_thread.run_sync(workers.wait, 20)
