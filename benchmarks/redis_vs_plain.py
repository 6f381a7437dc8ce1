"""The Redis connector against the plain redis-py one: same server, same records, interleaved in one run.

    make bench                      # all sizes, 5 rounds, a table and benchmarks/results/redis_vs_plain.json
    make bench ARGS='--rounds 3 --server redis'

Every chunk that is read is compared with what was written. GB is 10^9 bytes. CPU seconds are this process's, so the
server's are not in them. A round measures each connector in turn; medians of rounds are reported, and only their
ratios mean anything on a machine that others use too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj, __version__
from lmcache_connect.memory.memory_obj import release_all
from lmcache_connect.testing.loop_watch import LoopWatch
from lmcache_connect.testing.servers import RedisServer, StoreServer, ValkeyServer
from lmcache_reference_connectors.redis import RedisReferenceAdapter

KIB: Final = 1 << 10
MIB: Final = 1 << 20
BATCHES: Final = {128 * KIB: 512, MIB: 128, 4 * MIB: 32, 32 * MIB: 8}
"""Chunk size in bytes -> chunks in a batch."""
LOOKUPS: Final = 1000
SINGLES: Final = 20
RESULTS: Final = Path(__file__).parent / "results"
FAST, PLAIN = "fast", "plain"

Samples = dict[tuple[str, str, int], list[float]]


class Clock:
    """Wall and CPU seconds of a block."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the block's time."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class Comparison:
    """Samples of one run: by work, connector and chunk size."""

    def __init__(self, backend: LocalCPUBackend, connectors: dict[str, ManagedConnector]) -> None:
        self.backend = backend
        self.connectors = connectors
        self.samples: Samples = {}

    def note(self, work: str, name: str, size: int, value: float) -> None:
        """Keeps one sample."""
        self.samples.setdefault((work, name, size), []).append(value)

    def median(self, work: str, name: str, size: int) -> float:
        """The median of a work's samples."""
        return statistics.median(self.samples[work, name, size])

    async def round(self, size: int, count: int, number: int) -> None:
        """Each connector puts and gets one batch and some single chunks; who goes first changes from round to round."""
        objs = self.backend.batched_allocate((size,), "uint8", count)
        if objs is None:
            raise SystemExit(f"the arena has no room for {count} chunks of {size} bytes")
        for index, obj in enumerate(objs):
            block = Random(f"{number}-{index}").randbytes(64 * KIB)
            obj.byte_array[:] = block * (size // len(block))
        keys = [f"bench@1@0@{index:x}@uint8" for index in range(count)]
        names = list(self.connectors)
        for name in names if number % 2 else reversed(names):
            await self._measure(name, size, keys, objs)
        release_all(list(objs))

    async def _measure(self, name: str, size: int, keys: Sequence[str], objs: Sequence[MemoryObj]) -> None:
        connector = self.connectors[name]
        gigabytes = size * len(keys) / 1e9
        clock = Clock()
        with clock.running():
            await connector.batched_put(keys, objs)
        self.note("put GB/s", name, size, gigabytes / clock.wall)
        self.note("put CPU s/GB", name, size, clock.cpu / gigabytes)
        clock = Clock()
        with clock.running():
            found = await connector.batched_get(keys)
        self.note("get GB/s", name, size, gigabytes / clock.wall)
        self.note("get CPU s/GB", name, size, clock.cpu / gigabytes)
        verify(found, objs)
        clock = Clock()
        for key, obj in zip(keys[:SINGLES], objs, strict=False):
            clock.wall = 0.0
            with clock.running():
                one = await connector.get(key)
            self.note("single get ms", name, size, clock.wall * 1e3)
            verify([one], [obj])

    async def lookups(self) -> None:
        """Each connector looks up a batch of keys, half of which are there."""
        with await self.backend.allocate_async((1,), "uint8") as obj:
            present = [f"look@1@0@{index:x}@uint8" for index in range(0, LOOKUPS, 2)]
            for connector in self.connectors.values():
                await connector.batched_put(present, [obj] * len(present))
        keys = [f"look@1@0@{index:x}@uint8" for index in range(LOOKUPS)]
        for name, connector in self.connectors.items():
            clock = Clock()
            with clock.running():
                found = await connector.batched_exists(keys)
            if found != [index % 2 == 0 for index in range(LOOKUPS)]:
                raise SystemExit(f"{name} looked up the wrong keys")
            self.note("exists k keys/s", name, 0, LOOKUPS / clock.wall / 1e3)

    async def loop_gap(self, seconds: float) -> dict[str, float]:
        """Milliseconds between turns of the event loop while 32 MiB chunks stream both ways at full speed."""
        size, connector = 32 * MIB, self.connectors[FAST]
        objs = self.backend.batched_allocate((size,), "uint8", 4)
        if objs is None:
            raise SystemExit("the arena has no room for the streaming chunks")
        keys = [f"gap@1@0@{index:x}@uint8" for index in range(4)]
        await connector.batched_put(keys, objs)
        ends = time.monotonic() + seconds

        async def put(key: str, obj: MemoryObj) -> None:
            while time.monotonic() < ends:
                await connector.put(key, obj)

        async def get(key: str) -> None:
            while time.monotonic() < ends:
                release_all([await connector.get(key)])

        async with LoopWatch() as watch:
            await asyncio.gather(*map(put, keys[:2], objs), *map(get, keys[2:]))
        release_all(list(objs))
        return {"p99_ms": watch.percentile(99) * 1e3, "longest_ms": watch.longest * 1e3}


def verify(found: Sequence[MemoryObj | None], expected: Sequence[MemoryObj]) -> None:
    """Compares every byte, releases what was found, and ends the run on the first difference."""
    for obj, original in zip(found, expected, strict=True):
        if obj is None or obj.byte_array != original.byte_array:
            raise SystemExit("a chunk that was read is not the one that was written")
    release_all(list(found))


async def compare(server: StoreServer, rounds: int, sizes: Sequence[int], log: Callable[[str], None]) -> dict[str, Any]:
    """One run against one server."""
    config = ConnectorConfig.load(operation_timeout=120)
    with LocalCPUBackend(1280 * MIB, prefault=True) as backend:
        async with ConnectorManager(server.url(), local_cpu_backend=backend, config=config) as manager:
            manager.register(RedisReferenceAdapter)
            # A database each: neither pays for replacing the other's values.
            plain = manager.create_connector(server.url(db=1).replace("redis://", "plain-redis://", 1))
            run = Comparison(backend, {FAST: manager.create_connector(), PLAIN: plain})
            for size in sizes:
                await run.round(size, BATCHES[size], 0)  # connects, and pays the server's first page faults
            run.samples.clear()
            for number in range(1, rounds + 1):
                log(f"{server.name}: round {number} of {rounds}")
                for size in sizes:
                    await run.round(size, BATCHES[size], number)
                await run.lookups()
            gap = await run.loop_gap(3.0)
        balance = backend.statistics().reserved
    return {
        "server": server.name,
        "results": [row(run, work, size) for work, size in sorted({(work, size) for work, _, size in run.samples})],
        "loop_gap_streaming_32_mib_both_ways": gap,
        "arena_balance_bytes": balance,
    }


def row(run: Comparison, work: str, size: int) -> dict[str, Any]:
    """One work on one chunk size: medians, and how many times better the fast connector is."""
    fast, plain = run.median(work, FAST, size), run.median(work, PLAIN, size)
    less_is_better = work.endswith(("ms", "CPU s/GB"))
    result = {"work": work, "chunk_bytes": size, FAST: fast, PLAIN: plain}
    result["times_better"] = plain / fast if less_is_better else fast / plain
    if work == "single get ms":
        for name in (FAST, PLAIN):
            result[f"{name}_p99"] = statistics.quantiles(run.samples[work, name, size], n=100)[98]
    return result


def show(console: Console, report: dict[str, Any]) -> None:
    """The report as a table."""
    for run in report["runs"]:
        table = Table(title=f"Redis connector against plain redis-py, {run['server']}, checksums on")
        for column, side in (
            ("work", "left"),
            ("chunk", "right"),
            (FAST, "right"),
            (PLAIN, "right"),
            ("times better", "right"),
        ):
            table.add_column(column, justify="left" if side == "left" else "right")
        for entry in run["results"]:
            size = entry["chunk_bytes"]
            shown = "" if not size else f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"
            figures = (f"{entry[FAST]:.3g}", f"{entry[PLAIN]:.3g}", f"{entry['times_better']:.1f} x")
            table.add_row(entry["work"], shown, *figures)
        console.print(table)
        gap = run["loop_gap_streaming_32_mib_both_ways"]
        console.print(
            f"event-loop gap while 32 MiB chunks stream both ways: p99 {gap['p99_ms']:.2f} ms, "
            f"longest {gap['longest_ms']:.2f} ms\n"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison; 1 when memory was not given back."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.redis_vs_plain", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=("valkey", "redis", "both"), default="both")
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(BATCHES), default=list(BATCHES), metavar="BYTES")
    parser.add_argument("--output", type=Path, default=RESULTS / "redis_vs_plain.json")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    options = parser.parse_args(arguments)
    console = Console()
    kinds: list[type[StoreServer]] = [ValkeyServer] if options.server != "redis" else []
    if options.server != "valkey":
        if RedisServer.available():
            kinds.append(RedisServer)
        else:
            console.print("redis-server is not installed: its run is left out")
    runs = []
    for kind in kinds:
        with kind() as server:
            runs.append(run_loop(compare(server, options.rounds, options.sizes, console.log), options.uvloop))
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(list_cpus())} CPUs",
        "event_loop": "uvloop" if options.uvloop else "asyncio",
        "rounds": options.rounds,
        "runs": runs,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    show(console, report)
    console.print(f"written to {options.output}")
    return int(any(run["arena_balance_bytes"] for run in runs))


def run_loop(work: Awaitable[dict[str, Any]], with_uvloop: bool) -> dict[str, Any]:
    """The result of `work` on a new loop."""

    async def run() -> dict[str, Any]:
        return await work

    if with_uvloop:
        import uvloop

        result: dict[str, Any] = uvloop.run(run())
        return result
    return asyncio.run(run())


def list_cpus() -> set[int]:
    """The CPUs that this process may use."""
    import os

    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


if __name__ == "__main__":
    sys.exit(main())
