"""What the application holds: a connector with deadlines, retries, a breaker, a byte budget and counters around it.

Imported by `manager` and by what stands above it.
"""

from __future__ import annotations

from .breaker import BreakerState
from .connector import ManagedConnector

__all__ = ["BreakerState", "ManagedConnector"]
