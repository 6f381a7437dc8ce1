"""Throughput by the number of cores: one Valkey server and rings of several, with more and more of the cores.

    python -m benchmarks.lmcache_connect_redis.cores [--cores 1 2 4 8] [--servers 1 4] [--rounds 5] [--output FOLDER]

The servers and the client share the cores that they are given (`sched_setaffinity`), so what is measured on a large
machine with `--cores 2` compares with a small one. Each number of cores has a process of its own, with servers of its
own; the rings of one process take turns. Chunks are stored from and loaded into memory of the caller, and compared.
A ring has one thread of the client for each server, and a single server two for gets. GB is 10^9 bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from lmcache_connect import __version__
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.ring import RingServers

from .several_servers import MIB, Side, measure

BATCHES: Final = ("512x0.125", "64x1", "32x4", "8x32")
_SECONDS: Final = 900


def run_here(servers: Sequence[int], batches: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Measures in this process, on the cores that it has."""
    found = []
    with ExitStack() as stack:
        sides = []
        flushed: list[ValkeyServer | RingServers] = []
        for count in servers:
            if count == 1:
                one = stack.enter_context(ValkeyServer())
                flushed.append(one)
                sides.append(Side("1", one.url(), [one], stack))
            else:
                ring = stack.enter_context(RingServers(count=count))
                flushed.append(ring)
                sides.append(Side(str(count), ring.url(), ring.servers, stack))
        for batch in batches:
            chunks, mib = batch.split("x")
            nbytes = int(float(mib) * MIB)
            gigabytes = int(chunks) * nbytes / 1e9
            for (way, name), costs in measure(sides, int(chunks), nbytes, rounds).items():
                found.append(
                    {
                        "servers": int(name),
                        "batch": batch,
                        "way": way,
                        "gb_per_s": gigabytes / median(cost.wall for cost in costs),
                        "client_cpu_s_per_gb": sum(cost.client for cost in costs) / gigabytes / len(costs),
                    }
                )
            for each in flushed:
                each.flush()
    return found


def run_apart(cores: Sequence[int], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The same in a process that has only these cores, from before its first thread on."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.lmcache_connect_redis.cores",
        "--here",
        "--rounds",
        str(options.rounds),
    ]
    command += ["--servers", *map(str, options.servers), "--batches", *options.batches]
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    finally:
        os.sched_setaffinity(0, own)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def table(report: dict[str, Any]) -> Table:
    """A row for each batch and direction, a column for each number of cores and servers."""
    made = Table(title=f"GB/s (CPU s/GB of the client), {report['machine']}, medians of {report['rounds']} rounds")
    made.add_column("")
    columns = [(run["cores"], count) for run in report["runs"] for count in report["servers"]]
    for cores, count in columns:
        made.add_column(f"{cores} cores, {count} server{'s' if count > 1 else ''}", justify="right")
    cells = {
        (run["cores"], found["servers"], found["batch"], found["way"]): found
        for run in report["runs"]
        for found in run["results"]
    }
    for batch in report["batches"]:
        chunks, mib = batch.split("x")
        for way in ("store", "load"):
            row = [cells[cores, count, batch, way] for cores, count in columns]
            made.add_row(
                f"{way} {chunks} × {mib} MiB",
                *(f"{cell['gb_per_s']:.2f} ({cell['client_cpu_s_per_gb']:.2f})" for cell in row),
            )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the measurement, prints it, and writes it as JSON where a folder is given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lmcache_connect_redis.cores",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    available = sorted(os.sched_getaffinity(0))
    most = len(available)
    powers = [1 << power for power in range(most.bit_length())]
    parser.add_argument("--cores", type=int, nargs="+", default=powers, choices=range(1, most + 1), metavar="N")
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 4], metavar="N")
    parser.add_argument("--batches", nargs="+", default=list(BATCHES), help="chunks x MiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=None, metavar="FOLDER", help="where redis_cores.json is written")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        json.dump(run_here(options.servers, options.batches, options.rounds), sys.stdout)
        return 0
    console = Console()
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {most} CPUs",
        "rounds": options.rounds,
        "servers": options.servers,
        "batches": options.batches,
        "runs": [{"cores": count, "results": run_apart(available[:count], options)} for count in options.cores],
    }
    console.print(table(report))
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        written = options.output / "redis_cores.json"
        written.write_text(json.dumps(report, indent=1) + "\n")
        console.print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
