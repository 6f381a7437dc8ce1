"""TLS against no TLS, a blocking `SSLSocket` and valkey-glide: one server, interleaved in one run.

    python -m benchmarks.lmcache_connect_redis.tls [--rounds 5] [--sizes 1048576] [--cipher aes128] [--output FOLDER]

The server is one redis-server with a plain port and a TLS port. Every client verifies its certificate. `--cipher` is
the one cipher that the server admits; without it, clients and server agree on AES-256-GCM. LMCache's own
clients, which have no TLS, take part where LMCache is installed. Every chunk that is read is compared with what was
written. CPU seconds are those of this process. GB is 10^9 bytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import ssl
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.console import Console
from rich.table import Table

from lmcache_connect import __version__
from lmcache_connect.testing.servers.redis import RedisServer

from .comparison import BATCHES, MIB, Comparison, batches
from .contenders.blocking_tls import BlockingTLS
from .contenders.connect import Connect
from .contenders.contender import Contender
from .contenders.glide import Glide
from .contenders.lmcache import LMCacheRedis, LMCacheRESP
from .floor import floor_server
from .report import ORDER, shown

SIZES: Final = (MIB, 4 * MIB, 32 * MIB)
CIPHERS: Final = {
    "aes128": "TLS_AES_128_GCM_SHA256",
    "aes256": "TLS_AES_256_GCM_SHA384",
    "chacha20": "TLS_CHACHA20_POLY1305_SHA256",
}
"""What the server's setting `tls-ciphersuites` calls them."""


class _OverTLS(Contender):
    """A contender that gets the URL of the server's TLS port in place of that of its plain one."""

    server: ClassVar[RedisServer]

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        database = int(url.rpartition("/")[2])
        await super().open(self.url(database), chunk_bytes, chunks)  # type: ignore[safe-super]

    def url(self, database: int) -> str:
        return self.server.url("rediss", db=database, options={"ca_file": self.server.ca_file})


class ConnectThread(Connect):
    """The Redis connector without TLS. Calls of 1 MiB and more are moved by a thread."""

    name: ClassVar[str] = "redis://"


class ConnectTLSThread(_OverTLS, Connect):
    """The Redis connector over TLS, as it is by default."""

    name: ClassVar[str] = "rediss://"


class ConnectTLSLoop(_OverTLS, Connect):
    """The Redis connector over TLS, on the event loop."""

    name: ClassVar[str] = "rediss://?io=loop"

    def url(self, database: int) -> str:
        return f"{super().url(database)}&io=loop"


class SSLSocketTLS(_OverTLS, BlockingTLS):
    """What Python's own TLS socket gives."""


class GlideTLS(_OverTLS, Glide):
    """valkey-glide over TLS."""

    name: ClassVar[str] = "valkey-glide, TLS"


CONTENDERS: Final[tuple[type[Contender], ...]] = (
    ConnectThread,
    ConnectTLSThread,
    ConnectTLSLoop,
    SSLSocketTLS,
    Glide,
    GlideTLS,
    LMCacheRedis,
    LMCacheRESP,
)


async def compare(server: RedisServer, sizes: Sequence[int], rounds: int, console: Console) -> dict[str, Any]:
    """One run with all contenders."""
    _OverTLS.server = server
    with floor_server(None) as floor:
        comparison = Comparison(CONTENDERS, lambda number: server.url(db=number), floor, console.log)
        for chunk_bytes, chunks in batches(sizes).items():
            await comparison.run(chunk_bytes, chunks, rounds)
            server.flush()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
        "server": server.name,
        "rounds": rounds,
        "results": comparison.samples.results(batches(sizes)),
        "left_out": comparison.missing,
    }


def show(console: Console, report: dict[str, Any]) -> None:
    """The report as a table: each value, and how it compares with `redis://`."""
    results = sorted(report["results"], key=lambda result: (ORDER.index(result["work"]), result["chunk_bytes"]))
    names = list(dict.fromkeys(name for result in results for name in result["values"]))
    table = Table(title=f"{report['server']}, {report['openssl']}, median of {report['rounds']} rounds")
    for heading in ("work", "batch", *names):
        table.add_column(heading)
    for result in results:
        plain = result["values"][ConnectThread.name]["median"]
        cells = [
            f"{value['median']:.3g} ({value['median'] / plain:.2f})" if value is not None else ""
            for value in map(result["values"].get, names)
        ]
        batch = f"{result['chunks']} × {shown(result['chunk_bytes'])}" if result["chunk_bytes"] else "1000 keys"
        table.add_row(result["work"], batch, *cells)
    console.print(table)
    console.print("In brackets: divided by the value of redis://.")
    for name, why in report["left_out"].items():
        console.print(f"left out: {name}: {why}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the comparison, shows it, and writes it as JSON where a folder is given."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lmcache_connect_redis.tls", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", choices=list(BATCHES), default=list(SIZES), metavar="BYTES")
    parser.add_argument("--cipher", choices=list(CIPHERS), default=None)
    parser.add_argument("--output", type=Path, default=None, metavar="FOLDER", help="where redis_tls.json is written")
    options = parser.parse_args(arguments)
    console = Console()
    config = {} if options.cipher is None else {"tls-ciphersuites": CIPHERS[options.cipher]}
    with RedisServer(tls=True, config=config) as server:
        report = asyncio.run(compare(server, options.sizes, options.rounds, console))
    report["cipher"] = options.cipher
    show(console, report)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        written = options.output / "redis_tls.json"
        written.write_text(json.dumps(report, indent=1) + "\n")
        console.print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
