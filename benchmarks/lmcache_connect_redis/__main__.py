"""The Redis connector against other clients: same server, same work, interleaved in one run.

    make bench                                            # everything that is installed: about ten minutes
    make bench ARGS='--rounds 3 --server redis --transport tcp'
    make bench-setup lmcache                              # before: valkey-glide, coredis, matplotlib; torch and LMCache

Every chunk that is read is compared with what was written. GB is 10^9 bytes. CPU seconds are those
of this process, without the server's. Another client begins in each round, and medians are reported. On a shared
machine, only ratios within one run are meaningful.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from lmcache_connect import __version__
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer, StoreServer

from .comparison import BATCHES, Comparison, batches, streaming_gaps
from .contenders import contenders
from .curves import curves
from .floor import floor_server
from .plots import draw
from .report import markdown, show

RESULTS: Final = Path(__file__).parents[1] / "results"
SERVERS: Final[dict[str, type[StoreServer]]] = {"valkey": ValkeyServer, "redis": RedisServer}
TRANSPORTS: Final = ("tcp", "unix")
WAYS: Final = ("thread", "loop")
"""The option `io` of the URL: what moves large chunks."""


async def compare(server: StoreServer, transport: str, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """One run against one server over one transport."""

    scheme = "redis" if transport == "tcp" else "unix"

    def database(number: int) -> str:
        return server.url(scheme, db=number)

    with tempfile.TemporaryDirectory() as folder:
        unix_path = Path(folder) / "floor" if transport == "unix" else None
        with floor_server(unix_path) as floor:
            comparison = Comparison(contenders(options.only), database, floor, console.log)
            for chunk_bytes, chunks in batches(options.sizes).items():
                await comparison.run(chunk_bytes, chunks, options.rounds)
                server.flush()
    console.log("loop gaps and curves")
    return {
        "server": server.name,
        "transport": transport,
        "results": comparison.samples.results(batches(options.sizes)),
        "left_out": comparison.missing,
        "loop_gap": {io: await streaming_gaps(server.url(scheme, db=0, options={"io": io}), 5.0) for io in WAYS},
        "curves": await curves(database(0)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the selected work, and writes JSON, Markdown and plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lmcache_connect_redis", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--server", choices=[*SERVERS, "both"], default="both")
    parser.add_argument("--transport", choices=[*TRANSPORTS, "both"], default="both")
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(BATCHES), default=list(BATCHES), metavar="BYTES")
    parser.add_argument("--only", nargs="+", default=None, metavar="NAME", help="contenders whose name contains this")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    options = parser.parse_args(arguments)
    console = Console()
    runs = []
    for name in SERVERS if options.server == "both" else (options.server,):
        if not SERVERS[name].available():
            console.print(f"left out: {name}: no server of this kind is installed")
            continue
        for transport in TRANSPORTS if options.transport == "both" else (options.transport,):
            with SERVERS[name]() as server:
                console.log(f"{server.name} over {transport}")
                runs.append(_run(compare(server, transport, options, console), options.uvloop))
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
        "command": shlex.join(["make", "bench", *_arguments(arguments)]),
        "event_loop": "uvloop" if options.uvloop else "asyncio",
        "rounds": options.rounds,
        "runs": runs,
        "curves": runs[0]["curves"] if runs else {},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    written = [options.output / "redis_speed.json", options.output / "redis_speed.md"]
    written[0].write_text(json.dumps(report, indent=1) + "\n")
    written[1].write_text(markdown(report))
    show(console, report)
    try:
        written += draw(report, options.output)
    except ImportError as missing:
        console.print(f"no plots: {missing}")
    for path in written:
        console.print(f"written: {path}")
    return 0


def _arguments(arguments: Sequence[str] | None) -> list[str]:
    given = list(sys.argv[1:] if arguments is None else arguments)
    return [f"ARGS={shlex.join(given)}"] if given else []


def _run(work: Coroutine[Any, Any, dict[str, Any]], with_uvloop: bool) -> dict[str, Any]:
    if not with_uvloop:
        return asyncio.run(work)
    import uvloop

    result: dict[str, Any] = uvloop.run(work)
    return result


if __name__ == "__main__":
    sys.exit(main())
