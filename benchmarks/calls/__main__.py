"""What single calls cost, against other clients and against one batch, interleaved in one run.

    make bench-calls                                      # all parts, against everything that is installed
    make bench-calls ARGS='together one --rounds 9 --base ../another-checkout'
    make bench-setup                                      # before: valkey-glide, coredis, matplotlib

Parts: `together` (100 and 1,000 concurrent calls), `one-batch` (concurrent single calls against one batch, on Redis and
S3), `memory` (batches in memory of the caller against batches in the arena), `one` (a call after the other), `threads`
(blocking calls), `busy` (a look-up while large chunks stream). Each client has a process of its own; with `--base`,
another checkout of the toolkit has one too. What is received is compared with what was put, outside the measured time.
Ours verifies checksums; the others have none.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from lmcache_connect import __version__
from lmcache_connect.testing import ValkeyServer
from lmcache_connect.testing.servers.redis import RedisServer, StoreServer
from lmcache_connect.testing.servers.s3 import BUCKET, RcloneServer, s3_url

from ..lmcache_connect_s3.__main__ import nginx, rclone
from .case import PARTS, STORES, Case, cases
from .comparison import Address, Comparison
from .plots import draw
from .report import markdown, show
from .results import Result

RESULTS: Final = Path(__file__).parents[1] / "results"
SERVERS: Final[dict[str, type[StoreServer]]] = {"valkey": ValkeyServer, "redis": RedisServer}
S3_SERVERS: Final = {"nginx": nginx, "rclone": rclone}


NGINX: Final = Path("/usr/sbin/nginx")
"""Where Debian has it, outside the search path of users."""


@contextmanager
def store(case: Case, options: argparse.Namespace) -> Iterator[tuple[str, Address]]:
    """A server for one case, empty: its name, and its URLs."""
    if case.store == "s3":
        with S3_SERVERS[options.s3_server]() as target:
            yield target.name, lambda side: s3_url(f"side-{side}", BUCKET, {"endpoint": target.endpoint})
    else:
        with SERVERS[options.server]() as server:
            yield server.name, lambda side: server.url(db=side)


def _no_server(case: Case, options: argparse.Namespace) -> str | None:
    """Why the case's store cannot be started here; None where it can."""
    if case.store == "redis":
        return None if SERVERS[options.server].available() else f"no {options.server} server is installed"
    there = NGINX.exists() or shutil.which("nginx") if options.s3_server == "nginx" else RcloneServer.available()
    return None if there else f"{options.s3_server} is not installed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the selected parts, and writes JSON, Markdown and plots."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calls",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none is all of them")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--base", type=Path, metavar="PATH", help="another checkout to measure in the same run")
    parser.add_argument("--server", choices=[*SERVERS], default="valkey")
    parser.add_argument("--s3-server", choices=[*S3_SERVERS], default="nginx")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES, help="of one-batch and memory")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="other clients whose name contains this; none: ours")
    parser.add_argument("--match", default="", metavar="TEXT", help="cases whose title contains this")
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"unknown part: {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    console = Console()
    report = _measure(options, console)
    report["command"] = command(list(sys.argv[1:] if arguments is None else arguments))
    options.output.mkdir(parents=True, exist_ok=True)
    written = [options.output / "calls.json", options.output / "calls.md"]
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


def _measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    results: list[Result] = []
    stores: dict[str, None] = {}
    with ExitStack() as stack:
        comparison = Comparison(
            log=console.log,
            only=options.only,
            base=None if options.base is None else options.base.resolve(),
            uvloop=options.uvloop,
        )
        stack.callback(comparison.close)
        for case in cases(options.parts or PARTS, options.stores):
            if options.match not in case.title:
                continue
            if reason := _no_server(case, options):
                comparison.left_out[case.store] = reason
                continue
            console.log(f"{case.part}: {case.title}")
            with store(case, options) as (name, address):
                results.append(comparison.run(case, address, options.rounds))
            stores[name] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs",
        "event_loop": "uvloop" if options.uvloop else "asyncio",
        "stores": list(stores),
        "rounds": options.rounds,
        "left_out": comparison.left_out,
        "results": [result.document() for result in results],
    }


def command(given: Sequence[str]) -> str:
    """The command that gives these figures, without the folders of this machine."""
    kept, words = [], iter(given)
    for word in words:
        name, has_value, value = word.partition("=")
        if name == "--output":
            if not has_value:
                next(words, None)
        elif name == "--base":
            kept += [name, Path(value or next(words, "")).resolve().name]
        else:
            kept.append(word)
    return "make bench-calls" + (f' ARGS="{shlex.join(kept)}"' if kept else "")


if __name__ == "__main__":
    sys.exit(main())
