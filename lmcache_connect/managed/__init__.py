"""What the application holds: a connector with deadlines, retries, a breaker, a byte budget and counters around it.

`manager` and every package above it may import this one.
"""

from __future__ import annotations

from ..contract import BreakerState
from .connector import ManagedConnector
from .lifetime import close_soon
from .operations import GETS, PUTS, REMOVALS
from .progress import Progress

__all__ = ["GETS", "PUTS", "REMOVALS", "BreakerState", "ManagedConnector", "Progress", "close_soon"]
