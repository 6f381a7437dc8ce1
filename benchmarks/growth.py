"""Measures what grows with what: the cost of one key, one chunk, one object, one caller, by how many there are.

    python -m benchmarks.growth                       # a Valkey server of its own; about three minutes
    python -m benchmarks.growth --only arena hot      # parts whose names begin so
    python -m benchmarks.growth --output benchmarks/results

Each value is the median of some rounds. A flat curve is good: nothing costs more because there is more of it. Times are
of wall time on one process; the server takes its share of look-ups, gets and scans. The figure needs matplotlib
(`make bench-setup`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import os
import platform
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj, __version__
from lmcache_connect.memory import release_all
from lmcache_connect.testing import ValkeyServer

from . import figures

CHUNK: Final = 4096
ROUNDS: Final = 5
MOST_CHUNKS: Final = 10_000


@dataclass(frozen=True)
class Curve:
    """The cost of one thing (`unit`) by the number of them."""

    name: str
    unit: str
    counts: str
    """What is counted."""
    points: Sequence[tuple[int, float]]

    @property
    def growth(self) -> float:
        """How many times as much the last point costs as the cheapest one."""
        values = [value for _, value in self.points]
        return values[-1] / min((value for value in values if value), default=1.0)


def median_us(work: Callable[[], Any], repeats: int, rounds: int = ROUNDS) -> float:
    """The median, over the rounds, of the microseconds of one call among `repeats`."""
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        taken.append((time.perf_counter() - started) / repeats * 1e6)
    return statistics.median(taken)


@contextmanager
def traced() -> Iterator[None]:
    """Has `held()` count what is allocated from here on. Everything takes longer meanwhile: not for times."""
    gc.collect()
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held() -> int:
    """Bytes that were allocated under `traced()` and are not free again."""
    return tracemalloc.get_traced_memory()[0]


# ------------------------------------------------------------------------------------------------------ memory


def arena() -> Iterator[Curve]:
    """One allocation and one release, beside many live objects with gaps between them."""
    points = []
    for live in (10, 100, 1000, 10_000, 100_000):
        with LocalCPUBackend((2 * live + 64) * CHUNK) as backend:
            objs = [_allocated(backend) for _ in range(2 * live)]
            release_all(objs[::2])
            points.append((live, median_us(partial(_allocate_and_release, backend), 200)))
            release_all(objs[1::2])
    yield Curve("arena: allocate and release 4 KiB", "µs", "live objects, every second place free", points)


def hot() -> Iterator[Curve]:
    """Hits, and allocations that have to evict, with nine of ten cached chunks in use."""
    hits, evictions = [], []
    for cached in (10, 100, 1000, 10_000, 100_000):
        with LocalCPUBackend(cached * CHUNK) as backend:
            for number in range(cached):
                _cache(backend, f"{number}")
            names = itertools.cycle(f"{number}" for number in range(cached))
            hits.append((cached, median_us(partial(_hit, backend, names), 200)))
            held = [_taken(backend, f"{number}") for number in range(cached) if number % 10]
            fresh = (f"new{number}" for number in itertools.count())
            evictions.append((cached, median_us(partial(_cache_next, backend, fresh), 200)))
            release_all(held)
    yield Curve("hot cache: a hit", "µs", "cached chunks", hits)
    yield Curve("hot cache: a chunk that evicts another", "µs", "cached chunks, nine of ten in use", evictions)


def _allocated(backend: LocalCPUBackend) -> MemoryObj:
    obj = backend.allocate((CHUNK,), "uint8")
    if obj is None:
        raise RuntimeError("the arena is full")
    return obj


def _allocate_and_release(backend: LocalCPUBackend) -> None:
    _allocated(backend).ref_count_down()


def _cache(backend: LocalCPUBackend, name: str) -> None:
    with _allocated(backend) as obj:
        backend.submit_put_task(name, obj)


def _cache_next(backend: LocalCPUBackend, names: Iterator[str]) -> None:
    _cache(backend, next(names))


def _hit(backend: LocalCPUBackend, names: Iterator[str]) -> None:
    _taken(backend, next(names)).ref_count_down()


def _taken(backend: LocalCPUBackend, name: str) -> MemoryObj:
    obj = backend.get_blocking(name)
    if obj is None:
        raise RuntimeError(f"{name} is not cached")
    return obj


# ------------------------------------------------------------------------------------------------------- store


@asynccontextmanager
async def _connector(url: str) -> AsyncIterator[ManagedConnector]:
    with LocalCPUBackend((MOST_CHUNKS + 64) * CHUNK) as backend:
        async with ConnectorManager(url, None, backend) as manager:
            yield manager.create_connector()


def _keys(count: int) -> list[str]:
    return [f"growth@1@0@{number:x}@uint8" for number in range(count)]


async def _filled(connector: ManagedConnector, nbytes: int, first: int, last: int) -> None:
    memory = connector.context.local_cpu_backend
    with await memory.allocate_async((nbytes,), "uint8") as obj:
        for start in range(first, last, 1000):
            keys = [f"growth@1@0@{number:x}@uint8" for number in range(start, min(last, start + 1000))]
            await connector.batched_put(keys, [obj] * len(keys))


async def store(url: str) -> list[Curve]:
    """Look-ups, gets of one batch, and gets of callers that come at the same time, of chunks of 4 KiB."""
    looked, got, together = [], [], []
    async with _connector(url) as connector:
        await _filled(connector, CHUNK, 0, MOST_CHUNKS)
        for count in (1, 10, 100, 1000, 10_000, 100_000):
            keys = _keys(count)
            looked.append((count, await _median_us(partial(connector.batched_exists, keys)) / count))
        for count in (1, 10, 100, 1000, 10_000):
            keys = _keys(count)
            got.append((count, await _median_us(partial(_get_all, connector, keys)) / count))
        for count in (1, 10, 100, 1000):
            keys = _keys(count)
            together.append((count, await _median_us(partial(_get_together, connector, keys)) / count))
    return [
        Curve("batched_exists: one key", "µs", "keys", looked),
        Curve("batched_get: one chunk of 4 KiB", "µs", "chunks", got),
        Curve("get: 4 KiB, one of many callers", "µs", "callers", together),
    ]


async def _median_us(work: Callable[[], Any]) -> float:
    taken = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - started) * 1e6)
    return statistics.median(taken[1:])


async def _get_all(connector: ManagedConnector, keys: Sequence[str]) -> None:
    release_all([obj for obj in await connector.batched_get(keys) if obj is not None])


async def _get_together(connector: ManagedConnector, keys: Sequence[str]) -> None:
    release_all([obj for obj in await asyncio.gather(*map(connector.get, keys)) if obj is not None])


async def scan(url: str, most: int) -> list[Curve]:
    """A listing of the whole store: the time of one name, and what the process remembers of it."""
    times, memory = [], []
    async with _connector(url) as connector:
        stored = 0
        for count in (1000, 10_000, 100_000, 1_000_000):
            if count > most:
                break
            await _filled(connector, 16, stored, count)
            stored = count
            named = 0
            started = time.perf_counter()
            async for _ in connector.scan():
                named += 1
            times.append((count, (time.perf_counter() - started) / count * 1e6))
            if named != count:
                raise RuntimeError(f"{named} names of {count}")
            with traced():
                async for _ in connector.scan():
                    named -= 1
                    if not named:
                        memory.append((count, held() / count))
    return [Curve("scan: one name", "µs", "names", times), Curve("scan: memory for a name", "bytes", "names", memory)]


@asynccontextmanager
async def _opened(url: str, count: int) -> AsyncIterator[None]:
    """So many idle connectors of one manager."""
    with LocalCPUBackend(CHUNK) as backend:
        async with ConnectorManager(url, None, backend) as manager:
            for number in range(count):
                await manager.open_connector(f"{url}?prefix=p{number}")
            yield


async def managers(url: str) -> list[Curve]:
    """Managers with idle connectors: the time to make, open and close them, and the memory of one."""
    times, memory = [], []
    for count in (1, 10, 100, 1000):
        started = time.perf_counter()
        async with _opened(url, count):
            pass
        times.append((count, (time.perf_counter() - started) / count * 1e6))
        with traced():
            async with _opened(url, count):
                gc.collect()
                memory.append((count, held() / count / 1024))
    return [
        Curve("manager: made and closed, for one connector", "µs", "connectors", times),
        Curve("manager: memory of an idle connector", "KiB", "connectors", memory),
    ]


# ------------------------------------------------------------------------------------------------------ report


def measure(only: Sequence[str], most_names: int) -> list[Curve]:
    """The curves of the parts whose names begin with one of `only`; none given: all."""

    def wanted(part: str) -> bool:
        return not only or any(part.startswith(name) for name in only)

    curves: list[Curve] = []
    for part, work in (("arena", arena), ("hot", hot)):
        if wanted(part):
            curves += work()
    for name, on_server in (("store", store), ("scan", lambda url: scan(url, most_names)), ("managers", managers)):
        if wanted(name):
            with ValkeyServer() as server:
                curves += asyncio.run(on_server(server.url("redis")))
    return curves


def markdown(report: dict[str, Any], curves: Sequence[Curve]) -> str:
    """The curves as tables."""
    lines = [
        "# What grows with what",
        "",
        f"{report['date']}, {report['machine']}, Python {report['python']}, `{report['command']}`: medians of "
        f"{ROUNDS} rounds. The last column says how many times as much one costs among the most as at its cheapest.",
    ]
    for curve in curves:
        heads = " | ".join(f"{count:,}" for count, _ in curve.points)
        values = " | ".join(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for _, value in curve.points)
        lines += [
            "",
            f"## {curve.name}",
            "",
            f"| {curve.counts} | {heads} | growth |",
            "| --- |" + " ---: |" * (len(curve.points) + 1),
            f"| {curve.unit} | {values} | {curve.growth:.1f} × |",
        ]
    return "\n".join(lines) + "\n"


def draw(report: dict[str, Any], curves: Sequence[Curve], folder: Path) -> list[Path]:
    """Writes `growth.svg` and `growth.png`: every curve in axes of its own, both axes logarithmic."""
    return figures.write({"growth": lambda: _figure(report, curves)}, folder)


def _figure(report: dict[str, Any], curves: Sequence[Curve]) -> Any:
    columns = 3
    rows = -(-len(curves) // columns)
    made, axes = figures.figure(
        report,
        "What one costs, by how many there are",
        "Flat is good. Both axes are logarithmic.",
        rows=rows,
        columns=columns,
        row_height=1.9,
    )
    made.subplots_adjust(wspace=0.3, hspace=0.75)
    cells = [cell for row in axes for cell in row]
    for cell, curve in zip(cells, curves, strict=False):
        counts, values = zip(*curve.points, strict=True)
        cell.plot(
            counts, [max(value, 1e-3) for value in values], marker="o", markersize=4, linewidth=1.8, color="#d1410c"
        )
        cell.set_xscale("log")
        cell.set_yscale("log")
        cell.set_ylim(min(values) / 4 or 1e-3, max(values) * 4)
        title = f"{curve.name}, {curve.unit}".replace(": ", ":\n")
        cell.set_title(title, loc="left", fontsize=8.5, fontweight="bold")
        cell.set_xlabel(curve.counts, fontsize=8.5)
        cell.grid(axis="y")
        cell.minorticks_off()
    for cell in cells[len(curves) :]:
        cell.set_visible(False)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes them where `--output` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="What grows with what")
    parser.add_argument("--only", nargs="*", default=[], metavar="PART", help="arena, hot, store, scan, managers")
    parser.add_argument("--names", type=int, default=1_000_000, help="the most names of the part scan")
    parser.add_argument("--output", type=Path, help="a folder for growth.json, growth.md and the figure")
    chosen = parser.parse_args(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    curves = measure(chosen.only, chosen.names)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "event_loop": "asyncio",
        "command": " ".join(["python -m benchmarks.growth", *(word for word in given if not word.startswith("/"))]),
    }
    page = markdown(report, curves)
    print(page, end="")
    if chosen.output is not None:
        chosen.output.mkdir(parents=True, exist_ok=True)
        document = report | {"curves": [asdict(curve) for curve in curves]}
        (chosen.output / "growth.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        (chosen.output / "growth.md").write_text(page, encoding="utf-8")
        draw(report, curves, chosen.output)


if __name__ == "__main__":
    main()
