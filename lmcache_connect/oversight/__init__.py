"""Looking after live connectors: health, metrics, clearing a store, the other workers that use it.

Imported by `internal_api_server`, `engines` and `cli`.
"""

from __future__ import annotations

from .clearing import Clearing, clear
from .fleet import FleetTraffic, FleetWatch
from .health import Health, HealthCheck, StoreHealth
from .metrics import ManagerMetrics
from .recent import RecentCounts
from .trouble import Trouble
from .workers import known_workers

__all__ = [
    "Clearing",
    "FleetTraffic",
    "FleetWatch",
    "Health",
    "HealthCheck",
    "ManagerMetrics",
    "RecentCounts",
    "StoreHealth",
    "Trouble",
    "clear",
    "known_workers",
]
