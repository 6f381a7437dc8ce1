"""How long a step of vLLM's scheduler takes that asks the tier for keys: `python -m benchmarks.engines.vllm_steps`.

A step is: `lookup` for every key of the requests that wait, `on_schedule_end`, and `get_finished_jobs`, as vLLM calls.
The store is a Valkey behind a proxy that delays each answer, both in a process of their own. Loads and stores go on in
the background. "nothing" is the same loop over a dict, in the same run: what the machine itself adds. Without vLLM the
tests' restatement of its interface is used. Times are of the wall, in microseconds; `cpu99` is the p99 of the
processor time of the step's own thread, which a busy machine does not lengthen.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lmcache_connect.testing import Fault, FaultKind, FaultProxy, ValkeyServer
from tests.engines.vllm.host import Host, key_of
from tests.engines.vllm.restated import Names, restated, spec

CHUNK_BYTES = 1 << 20
CHUNKS = 64
BETWEEN = 0.004
"""Seconds between two steps: where a model would run."""


def serve(delay: float) -> None:
    """The far store: prints its URL, and ends with its standard input."""
    with ValkeyServer() as server, FaultProxy(server.host, server.port) as proxy:
        if delay:
            proxy.arm(Fault(FaultKind.DELAY, delay=delay))
        print(f"redis://{proxy.host}:{proxy.port}", flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def far_store(delay: float) -> Iterator[str]:
    """The URL of a store that answers `delay` seconds late."""
    command = [sys.executable, "-m", __spec__.name, "--serve", str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


@contextlib.contextmanager
def tier_and_names() -> Iterator[tuple[Any, Names]]:
    """vLLM's names, or the restated ones."""
    module = "lmcache_connect.engines.vllm"
    if importlib.util.find_spec("vllm") is None:
        with restated():
            yield importlib.import_module(module).Tier, Names()
        return
    base = importlib.import_module("vllm.v1.kv_offload.base")
    tiering = importlib.import_module("vllm.v1.kv_offload.tiering.base")
    names = Names(base.LookupResult, base.ReqContext, base.ScheduleEndContext((), ()), tiering.TransferJob)
    yield importlib.import_module(module).Tier, names


def measure(host: Host, steps: int, keys: int, with_transfers: bool) -> dict[str, list[float]]:
    """Takes steps, and returns the microseconds of each: with the tier, and with nothing."""
    tier, retry = host.tier, host.names.lookup_result.RETRY
    times: dict[str, list[float]] = {"tier": [], "cpu": [], "nothing": []}
    request = 0
    context = host.request("r0")
    wanted = [key_of(number) for number in range(keys)]
    table = dict.fromkeys(wanted, True)
    under_way = 0
    for step in range(steps):
        time.sleep(BETWEEN)
        if with_transfers and under_way < 4:
            kind = "load" if step % 2 else "store"
            chunks = [(step * 8 + at) % CHUNKS for at in range(8)]
            host.submit(kind, [key_of(10_000_000 + chunk) for chunk in chunks], chunks, host.names.req_context("t"))
            under_way += 1
        worked, started = time.thread_time(), time.perf_counter()
        answers = [tier.lookup(key, context) for key in wanted]
        tier.on_schedule_end(host.names.schedule_end)
        finished = list(tier.get_finished_jobs())
        times["tier"].append((time.perf_counter() - started) * 1e6)
        times["cpu"].append((time.thread_time() - worked) * 1e6)
        under_way -= len(finished)
        started = time.perf_counter()
        _ = [table.get(key) for key in wanted]
        times["nothing"].append((time.perf_counter() - started) * 1e6)
        if retry not in answers:
            tier.on_request_finished(context)
            request += 1
            context = host.request(f"r{request}")
            wanted = [key_of(request * keys + number) for number in range(keys)]
            table = dict.fromkeys(wanted, True)
    host.tier.drain_jobs()
    return times


def described(times: list[float]) -> dict[str, float]:
    """The median, p99 and the longest."""
    cuts = statistics.quantiles(times, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "max": max(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds by which the store's answers come late")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--keys", type=int, nargs="+", default=[16, 64, 256, 1024], help="keys that a step asks for")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    rows: list[dict[str, Any]] = []
    with far_store(options.delay) as url, tier_and_names() as (tier, names):
        for keys in options.keys:
            for with_transfers in (False, True):
                made = Host(tier, names, spec(), chunks=CHUNKS, nbytes=CHUNK_BYTES, url=url, lookup_deadline=5.0)
                try:
                    times = measure(made, options.steps, keys, with_transfers)
                finally:
                    made.close()
                cpu = described(times.pop("cpu"))["p99"]
                for name, values in times.items():
                    rows.append(
                        {
                            "keys": keys,
                            "transfers": with_transfers,
                            "what": name,
                            **described(values),
                            "cpu99": cpu if name == "tier" else None,
                        }
                    )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'keys':>6} {'transfers':>9} {'':>8} {'p50':>9} {'p99':>9} {'max':>9} {'cpu99':>9}   microseconds a step")
    for row in rows:
        print(
            f"{row['keys']:>6} {'yes' if row['transfers'] else 'no':>9} {row['what']:>8} "
            f"{row['p50']:>9.0f} {row['p99']:>9.0f} {row['max']:>9.0f} {row['cpu99'] or 0:>9.0f}"
        )


if __name__ == "__main__":
    main()
