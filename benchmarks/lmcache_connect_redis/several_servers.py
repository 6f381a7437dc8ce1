"""One server against a ring of three and a Cluster of three on the same machine, interleaved in one run.

    python -m benchmarks.lmcache_connect_redis.several_servers [--rounds 9] [--batches 64x1 32x4 8x32]

Chunks are stored from and loaded into memory of the caller (`batched_put_from`, `batched_get_into`), and compared after
each round. Beside GB/s (10^9 bytes) it prints CPU seconds per GB: of this process, of all servers, and of the busiest
server. A server has one thread: GB/s cannot pass one divided by the CPU seconds of the busiest one. Where the sums of
CPU seconds times GB/s reach the number of cores, the machine is the limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from lmcache_connect import ConnectorManager
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.cluster import ClusterServers
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect.testing.servers.ring import RingServers

MIB: Final = 1 << 20
SERVERS: Final = 3
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


class Cost(NamedTuple):
    """Seconds that one batch took: of the clock, of this process's CPU, and of each server's."""

    wall: float
    client: float
    servers: list[float]


class Side:
    """One of those that are compared: a connector, and the servers behind it."""

    def __init__(self, name: str, url: str, servers: Sequence[StoreServer], stack: ExitStack) -> None:
        self.name: Final = name
        self._servers: Final = servers
        self._connector: Final = stack.enter_context(ConnectorManager(url)).create_connector().sync

    def store(self, keys: Sequence[str], chunks: Sequence[memoryview]) -> Cost:
        """Stores the chunks."""
        return self._cost(lambda: self._connector.batched_put_from(keys, chunks))

    def load(self, keys: Sequence[str], chunks: Sequence[memoryview]) -> Cost:
        """Loads the chunks."""
        return self._cost(lambda: self._connector.batched_get_into(keys, chunks))

    def _cost(self, call: Callable[[], Sequence[bool]]) -> Cost:
        busy = [_cpu_seconds(server.pid) for server in self._servers]
        began, worked = time.perf_counter(), time.process_time()
        flags = call()
        wall, client = time.perf_counter() - began, time.process_time() - worked
        if not all(flags):
            raise SystemExit(f"{self.name}: {list(flags).count(False)} of {len(flags)} chunks failed")
        return Cost(
            wall,
            client,
            [_cpu_seconds(server.pid) - before for server, before in zip(self._servers, busy, strict=True)],
        )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def measure(sides: Sequence[Side], chunks: int, nbytes: int, rounds: int) -> dict[tuple[str, str], list[Cost]]:
    """What each side's batches took, in turns. The first round warms up, and is left out."""
    stored = [memoryview(bytearray((b"%08d" % number) * (nbytes // 8))) for number in range(chunks)]
    loaded = [memoryview(bytearray(nbytes)) for _ in range(chunks)]
    keys = [f"model@{chunks}@{nbytes}@{number:04x}" for number in range(chunks)]
    costs: dict[tuple[str, str], list[Cost]] = {}
    for turn in range(rounds + 1):
        for side in sides:
            taken = {"store": side.store(keys, stored), "load": side.load(keys, loaded)}
            if stored != loaded:
                raise SystemExit(f"{side.name}: what was loaded is not what was stored")
            for chunk in loaded:
                chunk[:8] = chunk[-8:] = bytes(8)
            for way, cost in taken.items():
                if turn:
                    costs.setdefault((way, side.name), []).append(cost)
    return costs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison, and prints it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lmcache_connect_redis.several_servers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batches", nargs="+", default=["64x1", "32x4", "8x32"], help="chunks x MiB")
    options = parser.parse_args(arguments)
    console = Console()
    with ExitStack() as stack:
        one = stack.enter_context(ValkeyServer())
        ring = stack.enter_context(RingServers(count=SERVERS))
        cluster = stack.enter_context(ClusterServers(primaries=SERVERS, replicas_each=0))
        sides = [
            Side("one server", one.url(), [one], stack),
            Side(f"ring of {SERVERS}", ring.url(), ring.servers, stack),
            Side(f"cluster of {SERVERS}", cluster.url(), cluster.servers, stack),
        ]
        for batch in options.batches:
            chunks, mib = map(int, batch.split("x"))
            costs = measure(sides, chunks, mib * MIB, options.rounds)
            console.print(
                _table(f"{chunks} × {mib} MiB, medians of {options.rounds} rounds", costs, chunks * mib * MIB)
            )
            for server in (one, ring, cluster):
                server.flush()
    return 0


def _table(title: str, costs: dict[tuple[str, str], list[Cost]], nbytes: int) -> Table:
    table = Table(title=title)
    for heading in ("", "servers", "GB/s", "ratio", "client CPU s/GB", "servers' CPU s/GB", "busiest", "cores in use"):
        table.add_column(heading)
    gigabytes = nbytes / 1e9
    for way in ("store", "load"):
        base = 0.0
        for (taken, name), rounds in costs.items():
            if taken != way:
                continue
            speed = gigabytes / median(cost.wall for cost in rounds)
            base = base or speed
            # The kernel counts a server's time in ticks of 10 ms: only the sum of all rounds is exact enough.
            total = gigabytes * len(rounds)
            client = sum(cost.client for cost in rounds) / total
            each = [sum(times) / total for times in zip(*(cost.servers for cost in rounds), strict=True)]
            cores = (client + sum(each)) * total / sum(cost.wall for cost in rounds)
            numbers = (speed, speed / base, client, sum(each), max(each), cores)
            table.add_row(way, name, *(f"{number:.2f}" for number in numbers))
    return table


if __name__ == "__main__":
    sys.exit(main())
