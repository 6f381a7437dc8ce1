"""How long after a fault the throughput is full again."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .rates import BIN, Rates

WINDOW: Final = 1.0
"""Seconds over which a rate is looked at."""

_RECENT: Final = 20
"""So many calm seconds before a fault say what full means. A machine that others use is not the same for hours."""

FULL: Final = 0.8
"""A rate counts as full from this share of the median before. Of ordinary seconds without a fault, most reach it."""

AFTERMATH: Final = 3.0
"""Seconds after a fault that do not count as calm, whether the throughput is full again or not."""


@dataclass(frozen=True, slots=True)
class FaultRun:
    """One fault that happened. Times are seconds since the beginning of the run.

    `ended`: when the store could be reached again, as far as the fault is concerned. `fired`: how often the proxies
    harmed a connection; None for a fault of a server. `loses`: whether it took chunks from the store. Then gets find
    less to move for a while, however well the store works, and the throughput is told by calls and not by bytes.
    """

    kind: str
    begun: float
    ended: float
    fired: int | None = None
    loses: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the throughput did after one fault. Rates are bytes per second.

    `seconds`: from the end of the fault to the first second of full throughput; None: there was no such second before
    the next fault, or the end of the run. `before` is the median of the last calm seconds before, of which `FULL` is
    full. `during` is the mean rate while the fault lasted.
    """

    fault: FaultRun
    before: float
    during: float
    seconds: float | None


def recoveries(rates: Rates, faults: Sequence[FaultRun], seconds: float) -> list[Recovery]:
    """For each fault, how the throughput recovered. `seconds` is how long the run has lasted.

    A fault at whose beginning there was not one calm second is left out, and so is one whose recovery was not watched
    for at least a second.
    """
    found: list[Recovery] = []
    for number, fault in enumerate(faults):
        calm = list(calm_seconds(faults[:number], fault.begun))[-_RECENT:]
        next_begins = faults[number + 1].begun if number + 1 < len(faults) else seconds
        if not calm or next_begins - fault.ended < WINDOW:
            continue
        before = statistics.median(rates.bytes_per_second(begin, begin + WINDOW) for begin in calm)
        rate_of = rates.calls_per_second if fault.loses else rates.bytes_per_second
        full = FULL * statistics.median(rate_of(begin, begin + WINDOW) for begin in calm)
        during = rates.bytes_per_second(fault.begun, max(fault.ended, fault.begun + BIN))
        found.append(Recovery(fault, before, during, _time_to(rate_of, full, fault.ended, next_begins)))
    return found


def calm_seconds(faults: Sequence[FaultRun], until: float) -> Iterator[float]:
    """When each whole second before `until` began in which no fault and no aftermath was.

    The first second is left out. In it, connections are made for the first time.
    """
    begin = WINDOW
    for fault in (*faults, None):
        end = until if fault is None else min(fault.begun, until)
        while begin + WINDOW <= end:
            yield begin
            begin += WINDOW
        if fault is not None:
            begin = max(begin, fault.ended + AFTERMATH)


def _time_to(rate_of: Callable[[float, float], float], rate: float, since: float, until: float) -> float | None:
    begin = since
    while begin + WINDOW <= until + BIN / 2:
        if rate_of(begin, begin + WINDOW) >= rate:
            return begin - since
        begin += BIN
    return None
