"""What every network store needs: room in the arena before bytes arrive, crews for calls, the connector's base.

Imported by `lmcache_connect_redis` and `lmcache_connect_s3`. A new network store adds its protocol and nothing else.
"""

from __future__ import annotations

from .arrivals import Arrivals
from .connector import LARGE_BYTES, NAMES_AT_A_TIME, StreamingConnector
from .crew import Crew, Equipment
from .room import Room

__all__ = [
    "LARGE_BYTES",
    "NAMES_AT_A_TIME",
    "Arrivals",
    "Crew",
    "Equipment",
    "Room",
    "StreamingConnector",
]
