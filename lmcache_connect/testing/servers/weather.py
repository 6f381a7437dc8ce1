"""`Weather`: faults of random kinds, one after the other, on a fault proxy."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import Final

from .fault_proxy import FaultProxy
from .tcp_faults import Direction, Fault, FaultKind

CUTS: Final = (
    FaultKind.RESET,
    FaultKind.CLOSE,
    FaultKind.TRUNCATE_AND_CLOSE,
    FaultKind.STALL,
    FaultKind.DELAY,
    FaultKind.REFUSE,
)
"""Kinds that lose nothing in the middle of a stream: what arrives is what was sent, or less."""


class Weather:
    """Arms faults on a running proxy, one after the other. What is chosen depends on `rng` alone.

        with Weather(proxy, random.Random(7)) as weather:
            ...
        print(weather.fired)

    Args:
        proxy: the proxy, which is running.
        rng: chooses everything.
        kinds: what may happen. One that is named twice happens twice as often.
        calm: the shortest and the longest time without a fault, in seconds.
        lasts: the same for a fault.
    """

    def __init__(
        self,
        proxy: FaultProxy,
        rng: random.Random,
        kinds: Sequence[FaultKind] = CUTS,
        *,
        calm: tuple[float, float] = (0.05, 1.0),
        lasts: tuple[float, float] = (0.1, 4.0),
    ) -> None:
        self._proxy = proxy
        self._rng = rng
        self._kinds = tuple(kinds)
        self._calm = calm
        self._lasts = lasts
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self.fired: Final[Counter[str]] = Counter()
        """How often each fault has fired, by kind. `flip` and `swallow` have the direction in their name."""

    def __enter__(self) -> Weather:
        self._done.clear()
        self._thread = threading.Thread(target=self._blow, name="fault-weather", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    def next_fault(self) -> Fault:
        """The next fault. It may take thousands of bytes until it fires, or a few."""
        rng = self._rng
        kind = rng.choice(self._kinds)
        direction = rng.choice(tuple(Direction))
        return Fault(
            kind,
            direction,
            after_bytes=0 if kind is FaultKind.REFUSE else int(4_000_000 ** rng.random()),
            delay=rng.uniform(0.01, 0.5) if kind is FaultKind.DELAY else 0.0,
            rate=round(2 ** rng.uniform(10, 18)) if kind is FaultKind.DRIP else 0,
            count=rng.choice((1, 2, 4)),
        )

    def _blow(self) -> None:
        rng, proxy = self._rng, self._proxy
        while not self._done.wait(rng.uniform(*self._calm)):
            fault = self.next_fault()
            proxy.arm(fault)
            self._done.wait(rng.uniform(*self._lasts))
            proxy.disarm()
            where = f" {fault.direction}" if fault.kind in {FaultKind.FLIP, FaultKind.SWALLOW} else ""
            self.fired[f"{fault.kind}{where}"] += proxy.fired
