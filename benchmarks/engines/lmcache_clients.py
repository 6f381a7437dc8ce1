"""Clients of LMCache's multi-process server, beside bare sockets: `python -m benchmarks.engines.lmcache_clients`.

`NativeClient` (checksums on) and LMCache's own `resp` (C++, without checksums) store and load the same chunks on one
server, in turns with sockets that do nothing else (`bare_sockets.py`), which show what the machine gives at most.
Prints medians: GB/s, and seconds of CPU of this process per GB. It starts a Valkey. It needs LMCache (`make lmcache`).
"""

from __future__ import annotations

import argparse
import select
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median
from typing import Any, Final

from lmcache_connect.engines.lmcache import NativeClient
from lmcache_connect.testing import ValkeyServer

from .bare_sockets import BareSockets

MIB: Final = 1 << 20
RESP_THREADS: Final = 8  # LMCache's default
IDENTITY: Final = {"dtype": "uint8", "kv_layout": "bytes", "revision": "1"}

Call = Callable[[Sequence[str], Sequence[memoryview]], Any]
Clients = dict[str, dict[str, Call]]


def run_batch(client: Any, method: str, keys: Sequence[str], views: Sequence[memoryview]) -> None:
    """Submits a batch and waits until the client tells that it went well."""
    number = getattr(client, method)(keys, views)
    poll = select.poll()
    poll.register(client.event_fd(), select.POLLIN)
    while True:
        if not poll.poll(60_000):
            raise SystemExit(f"{type(client).__name__}.{method} did not end within 60 s")
        for done, went_well, error, *_ in client.drain_completions():
            if not went_well:
                raise SystemExit(f"{type(client).__name__}.{method} failed: {error}")
            if done == number:
                return


def clients_of(server: ValkeyServer, closed: ExitStack) -> Clients:
    """What is compared."""
    try:
        from lmcache.lmcache_redis import LMCacheRedisClient
    except ImportError as error:
        raise SystemExit(f"LMCache is missing ({error}): make lmcache") from error
    made: dict[str, Any] = {
        "NativeClient": closed.enter_context(closing(NativeClient(server.url(), identity=IDENTITY))),
        "resp": closed.enter_context(closing(LMCacheRedisClient("127.0.0.1", server.port, RESP_THREADS, "", ""))),
    }
    clients: Clients = {
        name: {way: partial(run_batch, client, f"submit_batch_{verb}") for way, verb in WAYS.items()}
        for name, client in made.items()
    }
    for name, connections, hashes in BARE:
        bare = closed.enter_context(closing(BareSockets("127.0.0.1", server.port, connections, hashes=hashes)))
        clients[name] = {"store": bare.store, "load": bare.load}
    return clients


WAYS: Final = {"store": "set", "load": "get"}

BARE: Final = (
    ("1 socket", 1, False),
    ("1 socket, hashed", 1, True),
    ("2 sockets", 2, False),
    ("2 sockets, hashed", 2, True),
    ("8 sockets", 8, False),
)


def measure(clients: Clients, chunks: int, nbytes: int, rounds: int) -> dict[tuple[str, str], tuple[float, float]]:
    """Median seconds of each client's stores and loads, and those of the CPU. The clients take turns."""
    data = [memoryview(bytearray((b"%08d" % number) * (nbytes // 8))) for number in range(chunks)]
    room = [memoryview(bytearray(nbytes)) for _ in range(chunks)]
    keys = [f"model@00@0@{number:04x}" for number in range(chunks)]
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):  # the first one warms up
        for name, ways in clients.items():
            for way, views in (("store", data), ("load", room)):
                began, worked = time.perf_counter(), time.process_time()
                ways[way](keys, views)
                took = time.perf_counter() - began, time.process_time() - worked
                if turn:
                    taken.setdefault((name, way), []).append(took)
            if room != data:
                raise SystemExit(f"{name}: what was loaded is not what was stored")
            for view in room:
                view[:8] = view[-8:] = bytes(8)
    return {each: (median(t for t, _ in all_), median(c for _, c in all_)) for each, all_ in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="8x4,64x1,32x4", help="chunks x MiB (default 8x4,64x1,32x4)")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    for case in options.cases.split(","):
        chunks, mib = map(int, case.split("x"))
        gigabytes = chunks * mib * MIB / 1e9
        with ValkeyServer() as server, ExitStack() as closed:
            figures = measure(clients_of(server, closed), chunks, mib * MIB, options.rounds)
        print(f"{chunks} x {mib} MiB, medians of {options.rounds} rounds: GB/s (seconds of CPU per GB)")
        for name in ("NativeClient", "resp", *(name for name, *_ in BARE)):
            shown = []
            for way in WAYS:
                seconds, busy = figures[name, way]
                shown.append(f"{way} {gigabytes / seconds:5.2f} ({busy / gigabytes:.2f})")
            print(f"  {name:18} {'   '.join(shown)}")


if __name__ == "__main__":
    main()
