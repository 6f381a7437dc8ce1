"""The proxies of a storm: `python -m tests.chaos.weather`. They cut, stall and delay connections, or change bytes.

It reads one line of JSON: `{"seed": …, "calm": port, "flipped": port}`, and answers with its own two ports, as
`{"cut": port, "flipped": port}`. When its input ends, it prints how often each fault fired, and ends.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from typing import Final

from lmcache_connect.testing import CUTS, FaultKind, FaultProxy, Weather

_HARM: Final = (*CUTS, *[FaultKind.FLIP] * 10, FaultKind.SWALLOW)
"""Where bytes in the middle of a stream are changed or lost, something may be stored under a wrong name."""


def main() -> None:
    """Runs both proxies until the input ends."""
    orders = json.loads(sys.stdin.readline())
    fired: Counter[str] = Counter()
    with FaultProxy("127.0.0.1", orders["calm"]) as cut, FaultProxy("127.0.0.1", orders["flipped"]) as flipped:
        sys.stdout.write(json.dumps({"cut": cut.port, "flipped": flipped.port}) + "\n")
        sys.stdout.flush()
        proxies = (("cut", cut, CUTS), ("flipped", flipped, _HARM))
        weathers = {
            name: Weather(proxy, random.Random(f"{orders['seed']}/{name}"), kinds) for name, proxy, kinds in proxies
        }
        with weathers["cut"], weathers["flipped"]:
            sys.stdin.read()
        for name, weather in weathers.items():
            fired.update({f"{name} {kind}": number for kind, number in weather.fired.items()})
    sys.stdout.write(json.dumps(fired) + "\n")


if __name__ == "__main__":
    main()
