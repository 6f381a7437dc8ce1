"""`lmcache-connect bench`, against real stores, with few bytes."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmcache_connect import ConnectorAdapter, ConnectorContext, Key, MemoryObj, RemoteConnector, register_adapter
from lmcache_connect.cli.bench.bench import Bounds, run_bench
from lmcache_connect.cli.bench.measuring import Samples
from lmcache_connect.cli.bench.plan import plan
from lmcache_connect.cli.bench.report import Figures
from lmcache_connect.manager import default_registry
from lmcache_connect.testing import ValkeyServer
from lmcache_reference_connectors.memory import MemoryConnector

from .conftest import CANARY, Ran, environment, interruptible

FEW = ("--sizes", "64KiB,1MiB", "--concurrency", "1,2", "--max-bytes", "32MiB", "--rounds", "2")


@pytest.fixture(scope="module")
def roomy() -> Iterator[ValkeyServer]:
    with ValkeyServer(password=CANARY, maxmemory="1gb") as started:
        yield started


def names_in(server: ValkeyServer) -> list[bytes]:
    with server.client() as client:
        return list(client.scan_iter())


# ----------------------------------------------------------------------------------------------------- measurements


def test_a_store_is_measured_by_size_and_way_and_left_empty(roomy: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("bench", "--json", *FEW, roomy.url())
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    rows = {(row["operation"], row["bytes"], row["concurrency"], row["batch"] > 1): row for row in found["rows"]}
    for operation in ("put", "get"):
        for nbytes in (64 << 10, 1 << 20):
            for concurrency, is_batch in ((1, False), (2, False), (1, True)):
                row = rows[operation, nbytes, concurrency, is_batch]
                assert row["bytes_per_second"] > 0
                assert row["keys_per_second"] == pytest.approx(row["bytes_per_second"] / nbytes)
                assert row["cpu_seconds_per_gb"] >= 0
    assert rows["exists", 0, 2, False]["calls"] == 2000
    assert found["bytes_moved"] <= 32 << 20
    assert found["chunks_verified"] > 0
    assert found["problems"] == {}
    assert names_in(roomy) == []


def test_two_stores_are_measured_in_turn_and_compared(roomy: ValkeyServer, invoke: Callable[..., Ran]) -> None:
    ran = invoke("bench", "--json", *FEW, roomy.url(), "--against", "memory://bench")
    found = json.loads(ran.out)
    assert ran.code == 0
    assert found["against"] == "memory://bench"
    for row in found["rows"]:
        rate = "bytes_per_second" if row["bytes"] else "keys_per_second"
        assert row["ratio"] == pytest.approx(row[rate] / row["against"][rate])
    assert names_in(roomy) == []


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_the_table_fits(invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = invoke("bench", *FEW, "memory://bench")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert any(line.startswith("put 64 KiB, x1") for line in lines)
    assert any(line.startswith("exists, batch 1000") for line in lines)


@pytest.mark.parametrize("held", [1, 512, 1 << 20, 32 << 20, 1 << 30])
@pytest.mark.parametrize("max_bytes", [1, 4096, 3 << 20, 100_000_001, 2 << 30])
@pytest.mark.parametrize("sizes", [(512,), (1 << 20,), (128 << 10, 1 << 20, 4 << 20, 32 << 20), (512, 32 << 20)])
def test_a_plan_keeps_within_its_bytes(sizes: tuple[int, ...], max_bytes: int, held: int) -> None:
    for concurrencies, rounds in itertools.product([(1,), (1, 8, 32), (7, 64)], (1, 2, 5)):
        check_plan(sizes, concurrencies, max_bytes, held, rounds)


def check_plan(sizes: tuple[int, ...], concurrencies: tuple[int, ...], max_bytes: int, held: int, rounds: int) -> None:
    made = plan(sizes, concurrencies, max_bytes=max_bytes, held=held, rounds=rounds)
    assert made.moved <= max_bytes
    assert made.held <= held
    assert len(made.loads) + len(made.left_out) == len(sizes) * (len(concurrencies) + 1)
    for load in made.loads:
        each = max(load.mode.concurrency, load.mode.batch)
        assert load.keys >= each
        assert load.chunks % each == load.keys % each == 0


def test_a_percentile_is_told_where_there_are_calls_enough() -> None:
    few = Figures.of([Samples([0.001] * 10, 0.01, 0.005, 10, 10_000)])
    assert (few.p50, few.p95, few.p99) == (0.001, None, None)
    many = Figures.of([Samples([number / 1000 for number in range(100)], 1.0, 0.5, 100, 10**9)])
    assert (many.p50, many.p95, many.p99) == (0.050, 0.095, 0.099)
    assert many.cpu_per_gb == 0.5


# ------------------------------------------------------------------------------------------------ what it refuses


def test_a_store_with_too_little_room_is_not_filled(invoke: Callable[..., Ran]) -> None:
    with ValkeyServer(maxmemory="16mb") as small:
        ran = invoke("bench", "--sizes", "1MiB", small.url())
        assert ran.code == 2
        assert "would lie there at a time: chunks of others would be evicted" in ran.err
        forced = invoke(
            "bench", "--sizes", "1MiB", "--anyway", "--concurrency", "8", "--max-bytes", "256MiB", small.url()
        )
        assert forced.code == 2
        assert "maxmemory" in forced.err
        assert names_in(small) == []
        fitting = invoke("bench", "--sizes", "1MiB", "--held", "4MiB", "--max-bytes", "32MiB", small.url())
        assert fitting.code == 0, fitting.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sizes", "1000"), "multiples of 512 bytes"),
        (("--sizes", "1MiB,x"), "number of bytes"),
        (("--concurrency", "0"), "1 to 1024"),
        (("--seconds", "soon"), "duration"),
        (("--max-bytes", "1KiB"), "too few"),
        (("--plot", "bench.gif"), ".png or .svg"),
        (("--plot", "/no/such/folder/bench.png"), "no folder"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(
    invoke: Callable[..., Ran], arguments: tuple[str, ...], said: str
) -> None:
    ran = invoke("bench", *arguments, "memory://bench")
    assert ran.code == 2
    assert said in ran.err


def test_without_matplotlib_the_extra_is_named_first(
    invoke: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = invoke("bench", "--plot", str(tmp_path / "bench.png"), "memory://bench")
    assert ran.code == 2
    assert "lmcache-connect[plot]" in ran.err


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_drawn(invoke: Callable[..., Ran], tmp_path: Path, kind: str) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bench.{kind}"
    ran = invoke("bench", *FEW, "--plot", str(path), "memory://bench", "--against", "memory://other")
    assert ran.code == 0
    assert path.read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


# ------------------------------------------------------------------------------------------------------- its end


class Swapping(MemoryConnector):
    """Gives other chunks than were put."""

    async def get(self, key: Key) -> MemoryObj | None:
        found = await super().get(key)
        if found is not None:
            found.byte_array[:8] = b"\xff" * 8
        return found


def test_chunks_that_come_back_wrong_are_counted(invoke: Callable[..., Ran]) -> None:
    class Adapter(ConnectorAdapter):
        schema = "swapping://"

        def create_connector(self, context: ConnectorContext) -> RemoteConnector:
            return Swapping(context.url, context.local_cpu_backend)

    register_adapter(Adapter)
    try:
        ran = invoke("bench", *FEW, "--json", "swapping://store")
    finally:
        default_registry.unregister("swapping")
    assert ran.code == 1
    assert json.loads(ran.out)["problems"]["a chunk came back with other bytes"] > 0


def test_a_benchmark_that_is_cancelled_leaves_nothing_in_the_store(roomy: ValkeyServer) -> None:
    async def cancelled() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop(step: str, _: int) -> None:
            if step.startswith("get"):
                task.cancel()

        await run_bench(
            roomy.url(), sizes=(1 << 20,), concurrencies=(4,), bounds=Bounds(max_bytes=64 << 20), on_progress=stop
        )

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert names_in(roomy) == []


def test_ctrl_c_leaves_nothing_in_the_store(roomy: ValkeyServer) -> None:
    command = [sys.executable, "-m", "lmcache_connect.cli.main", "bench", "--sizes", "1MiB", "--max-bytes", "200GiB"]
    with interruptible():
        process = subprocess.Popen(
            [*command, roomy.url()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
        )
    try:
        ends = time.monotonic() + 30
        while not names_in(roomy) and time.monotonic() < ends:
            time.sleep(0.02)
        [name, *_] = names_in(roomy)
        with roomy.client() as client:
            assert 0 < client.ttl(name) <= 600
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert names_in(roomy) == []
