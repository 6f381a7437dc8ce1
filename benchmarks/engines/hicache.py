"""What SGLang's HiCache gets from a store through the backend: `python -m benchmarks.engines.hicache`.

GB/s of sets and gets of 128 pages, and how many seconds of this process's CPU a GB takes, beside the same bytes through
`batched_put_from` and `batched_get_into` alone, in turns. It needs neither SGLang nor torch: the interface is restated,
as in the tests. The server is a Valkey of its own, or the one at `--url`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

from lmcache_connect import ConnectorManager
from lmcache_connect.testing import ValkeyServer
from tests.engines.sglang.conftest import config_of, keys_of
from tests.engines.sglang.pools import MHAPool, MLAPool
from tests.engines.sglang.restated import restated_sglang

PAGES: Final = 128
KIB: Final = 1 << 10

POOLS: Final[dict[str, tuple[type[MHAPool], str]]] = {
    "page-first": (MHAPool, "page_first"),
    "layer-first": (MHAPool, "layer_first"),
    "mla": (MLAPool, "page_first"),
}

Sides = dict[str, Callable[[], Any]]


def pool_of(name: str, page_kib: int) -> MHAPool:
    """A pool for twice as many pages as are moved, of 32 layers. A page has 16 tokens."""
    kind, layout = POOLS[name]
    dim = page_kib * KIB // (kind.halves * 32 * 16 * kind.itemsize)
    return kind(layout, pages=2 * PAGES, page_size=16, layers=32, heads=1, dim=dim)


@contextmanager
def sides_of(backend_class: Any, url: str, name: str, page_kib: int) -> Iterator[tuple[Sides, int]]:
    """What is compared, and the bytes of each call."""
    pool = pool_of(name, page_kib)
    pool.fill()
    keys, alone = keys_of(PAGES), keys_of(PAGES)
    source, target = pool.indices(range(PAGES)), pool.indices(range(PAGES, 2 * PAGES))
    config = config_of(url, mla=isinstance(pool, MLAPool), skip_existing=False)
    with closing(backend_class(config, {})) as backend, ConnectorManager(url) as manager:
        backend.register_mem_pool_host(pool)
        connector = manager.create_connector().sync
        at = backend._pool("kv").pool.pages
        stored, loaded = at(source, PAGES), at(target, PAGES)
        yield (
            {
                "batch_set_v1": lambda: backend.batch_set_v1(keys, source),
                "batched_put_from": lambda: connector.batched_put_from(alone, stored.buffers),
                "batch_get_v1": lambda: backend.batch_get_v1(keys, target),
                "batched_get_into": lambda: connector.batched_get_into(alone, loaded.buffers),
                "batch_exists": lambda: [backend.batch_exists(keys) == PAGES],
            },
            PAGES * pool.page_nbytes,
        )


def measure(sides: Sides, rounds: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each side, and those of the CPU.

    They take turns, so that all meet the same moments of a shared machine.
    """
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    busy: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds + 1):  # the first one warms up
        for side, call in sides.items():
            began, worked = time.perf_counter(), time.process_time()
            flags = call()
            took, worked = time.perf_counter() - began, time.process_time() - worked
            if not all(flags):
                raise SystemExit(f"{side}: {list(flags).count(False)} of {len(flags)} failed")
            if turn:
                seconds[side].append(took)
                busy[side].append(worked)
    return {side: (statistics.median(seconds[side]), statistics.median(busy[side])) for side in sides}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the store; a Valkey of its own without it")
    parser.add_argument("--page-kib", type=int, default=1024, help="KiB of a page (default 1024)")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with restated_sglang() as backend_class, ValkeyServer() as server:
        print(
            f"{PAGES} pages of {options.page_kib} KiB, median of {options.rounds} rounds: GB/s (seconds of CPU per GB)"
        )
        for name in POOLS:
            with sides_of(backend_class, options.url or server.url(), name, options.page_kib) as (sides, nbytes):
                figures = measure(sides, options.rounds)
            (look_up, _) = figures.pop("batch_exists")
            shown = "  ".join(
                f"{side} {nbytes / seconds / 1e9:.2f} ({busy / nbytes * 1e9:.2f})"
                for side, (seconds, busy) in figures.items()
            )
            print(f"{name:12} {shown}  batch_exists {look_up * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
