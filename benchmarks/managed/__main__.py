"""What a small call costs through the managed connector, and by itself: `python -m benchmarks.managed`.

Microseconds of wall time for one awaited call on a warm connector, one call at a time. "itself" calls the author's
connector (`.wrapped`) directly; the difference is what the managed connector adds. With `--base PATH`, another
checkout is measured in the same run, in alternating rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# A base checkout runs this file, and has to have what it imports.
from lmcache_connect import ConnectorManager, LocalCPUBackend, MemoryObj
from lmcache_connect.errors import UnknownSchemeError

CHUNK_BYTES = 4096
CALLS = 200
"""Calls that are timed together. Short, so that both sides meet the same moments of a shared machine."""

Figures = dict[str, list[float]]


class Calls:
    """The calls that are compared, on one connector: the managed one, or the one inside."""

    def __init__(self, connector: Any, chunk: MemoryObj) -> None:
        self._connector = connector
        self._chunk = chunk

    async def exists(self) -> None:
        for _ in range(CALLS):
            await self._connector.exists("there")

    async def get(self) -> None:
        for _ in range(CALLS):
            (await self._connector.get("there")).ref_count_down()

    async def put(self) -> None:
        for _ in range(CALLS):
            await self._connector.put("there", self._chunk)


async def _timed(calls: Callable[[], Awaitable[None]]) -> float:
    started = time.perf_counter()
    await calls()
    return (time.perf_counter() - started) / CALLS * 1e6


async def _serve(urls: list[str]) -> None:
    """Measures one round for each line on stdin, and answers with a line of JSON."""
    with LocalCPUBackend(16 << 20) as backend:
        chunk = backend.allocate((CHUNK_BYTES,), "uint8")
        assert chunk is not None
        async with ConnectorManager(local_cpu_backend=backend) as manager:
            sides: dict[str, Calls] = {}
            for url in urls:
                try:
                    managed = manager.create_connector(url)
                except UnknownSchemeError:
                    continue  # a base checkout from before the scheme
                await managed.put("there", chunk)
                scheme = url.split("://", maxsplit=1)[0]
                sides[f"{scheme} managed"] = Calls(managed, chunk)
                sides[f"{scheme} itself"] = Calls(managed.wrapped, chunk)
            while await asyncio.to_thread(sys.stdin.readline):
                figures = {
                    f"{name} {operation}": await _timed(getattr(calls, operation))
                    for operation in ("exists", "get", "put")
                    for name, calls in sides.items()
                }
                print(json.dumps(figures), flush=True)
        chunk.ref_count_down()


class Checkout:
    """A process that measures the checkout at `path`."""

    def __init__(self, path: Path, urls: list[str], loop: str) -> None:
        folders = (path, path / "adapters", path / "reference_connectors")
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--loop", loop, "--serve", *urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        )
        self.figures: Figures = {}

    def measure(self) -> None:
        """One round."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        for name, value in json.loads(self._process.stdout.readline()).items():
            self.figures.setdefault(name, []).append(value)

    def end(self) -> None:
        """Ends the process."""
        self._process.communicate()


def _print(name: str, figures: Figures) -> None:
    print(f"\n{name}: µs a call, the lowest and the median of the rounds")
    print(f"{'':16}{'itself':>16}{'managed':>16}{'added':>16}")
    for scheme, operation in dict.fromkeys((key.split()[0], key.split()[2]) for key in figures):
        itself, managed = (figures[f"{scheme} {side} {operation}"] for side in ("itself", "managed"))
        added = [outer - inner for outer, inner in zip(managed, itself, strict=True)]
        cells = [(min(itself), statistics.median(itself)), (min(managed), statistics.median(managed))]
        cells.append((min(managed) - min(itself), statistics.median(added)))
        print(f"{scheme + ' ' + operation:16}" + "".join(f"{low:8.1f}{median:8.1f}" for low, median in cells))


def main() -> None:
    """Runs the comparison, or one side of it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.managed",
        description="The cost of a small call, with and without the managed connector",
    )
    parser.add_argument("--base", type=Path, help="another checkout to measure in the same run")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--serve", nargs="+", metavar="URL", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        factory = None
        if chosen.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_serve(chosen.serve))
        return
    from lmcache_connect.testing import ValkeyServer

    with ValkeyServer() as server:
        urls = ["memory://small-calls", server.url(), f"hot+{server.url()}?hot_bytes=16MiB"]
        checkouts = {"this checkout": Checkout(Path(__file__).parents[2], urls, chosen.loop)}
        if chosen.base is not None:
            checkouts["base"] = Checkout(chosen.base.resolve(), urls, chosen.loop)
        try:
            for _ in range(chosen.rounds):
                for checkout in checkouts.values():
                    checkout.measure()
        finally:
            for checkout in checkouts.values():
                checkout.end()
    for name, checkout in checkouts.items():
        _print(f"{name}, {chosen.loop}", checkout.figures)


if __name__ == "__main__":
    main()
