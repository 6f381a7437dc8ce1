"""Measures what requests to the internal API cost a transfer: its throughput, and the gaps of the event loop.

    python -m benchmarks.internal_api_server [--seconds 3] [--rounds 5] [--requests 300] [--json FILE]

Interleaved rounds of one transfer, batched gets of 32 chunks of 4 MiB: without a server, with an idle server, and with
a server under load, on the transfer's own loop and in a thread of its own. The load comes from another process at a
steady rate: alternate look-ups and requests for the metrics. That process needs CPU too, so the same load on an
unrelated server in another process is measured as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lmcache_connect import ConnectorManager, LocalCPUBackend, ManagedConnector
from lmcache_connect.internal_api_server import APIServerConfig, InternalAPIServer
from lmcache_connect.memory import release_all
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.loop_watch import LoopWatch

CHUNKS: Final = 32
CHUNK_BYTES: Final = 4 << 20
KEYS: Final = [f"chunk-{number}" for number in range(CHUNKS)]

LOAD: Final = """
import asyncio, sys, time
import aiohttp
async def main(address, rate):
    done = failed = 0
    late = []
    async with aiohttp.ClientSession(address, trust_env=False) as session:
        async def ask(path):
            nonlocal done, failed
            started = time.perf_counter()
            try:
                async with session.get(path) as answer:
                    await answer.read()
                    failed += answer.status != 200
            except aiohttp.ClientError:
                failed += 1
            done += 1
            late.append(time.perf_counter() - started)
        paths = ["/vllm/lookup?" + "&".join(f"key=chunk-{n}" for n in range(16)), "/metrics"]
        asking = set()
        start = time.perf_counter()
        number = 0
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        stop = loop.run_in_executor(None, sys.stdin.readline)
        while not stop.done():
            if len(asking) < 64:
                task = asyncio.create_task(ask(paths[number % 2]))
                asking.add(task)
                task.add_done_callback(asking.discard)
            number += 1
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
        seconds = time.perf_counter() - start
        await asyncio.gather(*asking)
        late.sort()
        print(done / seconds, failed, late[len(late) // 2], late[int(len(late) * 0.99)], flush=True)
asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""

ELSEWHERE: Final = """
import asyncio, sys
from lmcache_connect import ConnectorManager
from lmcache_connect.internal_api_server import InternalAPIServer
async def main():
    async with ConnectorManager(sys.argv[1]) as manager:
        await manager.create_connector().ping()
        async with InternalAPIServer(manager) as server:
            print(server.address, flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
"""


@dataclass
class Measured:
    """The results of one arrangement in all rounds."""

    rates: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    requests: list[float] = field(default_factory=list)
    failed: int = 0
    answers: list[float] = field(default_factory=list)
    slow_answers: list[float] = field(default_factory=list)


async def transfer(connector: ManagedConnector, seconds: float, measured: Measured) -> None:
    """Gets all chunks repeatedly, with checksums, and notes GB/s and the loop's gaps."""
    moved = 0
    started = time.perf_counter()
    async with LoopWatch() as watch:
        while (wall := time.perf_counter() - started) < seconds:
            found = await connector.batched_get(KEYS)
            moved += sum(obj.get_size() for obj in found if obj is not None)
            release_all(found)
    measured.rates.append(moved / 1e9 / wall)
    measured.gaps.append(watch.percentile(99))
    measured.longest.append(watch.longest)


@asynccontextmanager
async def load(address: str, rate: float, measured: Measured) -> AsyncIterator[None]:
    """Sends requests at a steady rate from another process, in the `with` block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LOAD, address, str(rate), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield
        process.stdin.write(b"\n")
        requests, failed, middle, slow = (await process.stdout.readline()).split()
        measured.requests.append(float(requests))
        measured.failed += int(failed)
        measured.answers.append(float(middle))
        measured.slow_answers.append(float(slow))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def server_elsewhere(url: str) -> AsyncIterator[str]:
    """The address of a server in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ELSEWHERE, url, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.kill()
        await process.wait()


async def run(seconds: float, rounds: int, rate: float) -> dict[str, Measured]:
    """All arrangements, interleaved."""
    with ValkeyServer() as store, LocalCPUBackend(3 * CHUNKS * CHUNK_BYTES, prefault=True) as backend:
        async with ConnectorManager(store.url(), None, backend) as manager, AsyncExitStack() as servers:
            connector = manager.create_connector()
            for key in KEYS:
                chunk = backend.allocate((CHUNK_BYTES,), "uint8")
                assert chunk is not None
                with chunk:
                    await connector.put(key, chunk)
            elsewhere = await servers.enter_async_context(server_elsewhere(store.url()))

            async def alone(measured: Measured) -> None:
                await transfer(connector, seconds, measured)

            def served(thread: bool, loaded: bool) -> Callable[[Measured], Awaitable[None]]:
                async def go(measured: Measured) -> None:
                    async with InternalAPIServer(manager, APIServerConfig.load(thread=thread)) as server:
                        if not loaded:
                            await transfer(connector, seconds, measured)
                            return
                        async with load(server.address or "", rate, measured):
                            await transfer(connector, seconds, measured)

                return go

            async def another(measured: Measured) -> None:
                async with load(elsewhere, rate, measured):
                    await transfer(connector, seconds, measured)

            arrangements: dict[str, Callable[[Measured], Awaitable[None]]] = {
                "no server": alone,
                "idle, same loop": served(False, False),
                "idle, own thread": served(True, False),
                "load on another process": another,
                "load, same loop": served(False, True),
                "load, own thread": served(True, True),
            }
            found = {name: Measured() for name in arrangements}
            await alone(Measured())  # warms up
            for number in range(rounds):
                for name, go in arrangements.items():
                    print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                    await go(found[name])
            return found


def main() -> None:
    """Runs and prints a table; medians over the rounds."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.internal_api_server",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of one transfer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=float, default=300.0, help="a second")
    parser.add_argument("--json", type=Path, help="write all values here as well")
    arguments = parser.parse_args()
    found = asyncio.run(run(arguments.seconds, arguments.rounds, arguments.requests))
    middle = statistics.median
    base = middle(found["no server"].rates)
    print("| arrangement | GB/s | of no server | gap p99 ms | longest ms | requests/s | failed | answer ms | p99 ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, one in found.items():
        requests = " |  |  | "
        if one.requests:
            answers = f"{1e3 * middle(one.answers):.1f} | {1e3 * middle(one.slow_answers):.1f}"
            requests = f"{middle(one.requests):.0f} | {one.failed} | {answers}"
        print(
            f"| {name} | {middle(one.rates):.2f} | {middle(one.rates) / base:.2f} | {1e3 * middle(one.gaps):.1f} | "
            f"{1e3 * middle(one.longest):.1f} | {requests} |"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({name: vars(one) for name, one in found.items()}, indent=1))


if __name__ == "__main__":
    main()
