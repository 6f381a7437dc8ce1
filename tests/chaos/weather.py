"""The proxies of a storm: `python -m tests.chaos.weather`. They cut, stall and delay connections, or change bytes.

It reads one line of JSON: `{"seed": …, "calm": port, "flipped": port}`, and answers with its own two ports, as
`{"cut": port, "flipped": port}`. When its input ends, it prints how often each fault fired, and ends.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from typing import Final

from lmcache_connect.testing import Direction, Fault, FaultKind, FaultProxy

_CUTS: Final = (
    FaultKind.RESET,
    FaultKind.CLOSE,
    FaultKind.TRUNCATE_AND_CLOSE,
    FaultKind.STALL,
    FaultKind.DELAY,
    FaultKind.REFUSE,
)
_HARM: Final = (*_CUTS, *[FaultKind.FLIP] * 10, FaultKind.SWALLOW)
"""Where bytes in the middle of a stream are changed or lost, something may be stored under a wrong name."""


def main() -> None:
    """Runs both proxies until the input ends."""
    orders = json.loads(sys.stdin.readline())
    done = threading.Event()
    fired: Counter[str] = Counter()
    with FaultProxy("127.0.0.1", orders["calm"]) as cut, FaultProxy("127.0.0.1", orders["flipped"]) as flipped:
        sys.stdout.write(json.dumps({"cut": cut.port, "flipped": flipped.port}) + "\n")
        sys.stdout.flush()
        threads = [
            threading.Thread(target=_rage, args=(proxy, name, random.Random(f"{orders['seed']}/{name}"), done, fired))
            for name, proxy in (("cut", cut), ("flipped", flipped))
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        done.set()
        for thread in threads:
            thread.join()
    sys.stdout.write(json.dumps(fired) + "\n")


def _rage(proxy: FaultProxy, name: str, rng: random.Random, done: threading.Event, fired: Counter[str]) -> None:
    kinds = _CUTS if name == "cut" else _HARM
    while not done.wait(rng.uniform(0.05, 1.0)):
        kind = rng.choice(kinds)
        direction = rng.choice(tuple(Direction))
        fault = Fault(
            kind,
            direction,
            after_bytes=0 if kind is FaultKind.REFUSE else int(4_000_000 ** rng.random()),
            delay=rng.uniform(0.01, 0.5) if kind is FaultKind.DELAY else 0.0,
            count=rng.choice((1, 2, 4)),
        )
        proxy.arm(fault)
        done.wait(rng.uniform(0.1, 4.0))
        proxy.disarm()
        where = f" {direction}" if kind is FaultKind.FLIP or kind is FaultKind.SWALLOW else ""
        fired[f"{name} {kind}{where}"] += proxy.fired


if __name__ == "__main__":
    main()
