"""`Chaos`: one breakage after the other, with calm before, between and after them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from .breakage import Breakage
from .deck import Deck
from .history import History
from .recovery import FaultRun

_SHORTEST: Final = 0.5
CALM: Final = 6.0
"""Seconds without a fault after each, in which the recovery is watched."""


class Chaos:
    """Breaks and mends. What it does depends on the seed alone; when something is mended, on the servers."""

    def __init__(self, breakages: Sequence[Breakage], history: History, rng: random.Random, calm: float = CALM) -> None:
        """`calm`: seconds without a fault after each."""
        self._calm = calm
        self._deck = Deck(breakages, rng)
        self._history = history
        self._rng = rng
        self.faults: Final[list[FaultRun]] = []
        """What has happened."""

    async def run(self, begun: float, seconds: float, on_fault: Callable[[str], None]) -> None:
        """Runs until `seconds` after `begun`, which is in monotonic time. Mends what is broken when it is cancelled.

        `on_fault` is called with what is going on.
        """
        await asyncio.sleep(min(max(seconds * 0.15, self._calm), 15.0))
        while True:
            breakage = self._deck.draw()
            lasts = self._rng.uniform(min(_SHORTEST, breakage.longest), breakage.longest)
            if time.monotonic() - begun + lasts + self._calm > seconds:
                return
            await self._happen(breakage, lasts, begun, on_fault)
            await asyncio.sleep(max(0.0, self._calm - (time.monotonic() - begun - self.faults[-1].ended)))

    async def _happen(self, breakage: Breakage, lasts: float, begun: float, on_fault: Callable[[str], None]) -> None:
        on_fault(breakage.kind)
        started = time.monotonic() - begun
        try:
            await breakage.begin(self._history)
            await asyncio.sleep(lasts)
        finally:
            # To its end also when the run is stopped: a server that stays stopped could not be ended in order.
            await asyncio.shield(breakage.end(self._history))
        self.faults.append(FaultRun(breakage.kind, started, time.monotonic() - begun, breakage.fired, breakage.loses))
        on_fault("")
        await asyncio.sleep(self._calm / 2)  # what the load does at first is not disturbed by the rest
        await asyncio.shield(breakage.tidy(self._history))
        self._history.is_well(time.monotonic())
