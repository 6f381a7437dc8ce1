"""What every network store needs: room in the arena before bytes arrive, workers, the connector's base.

Imported by the adapters of network stores. A new store adds its protocol and nothing else.
"""

from __future__ import annotations

from .arrivals import Arrivals
from .connector import IO, LARGE_BYTES, NAMES_AT_A_TIME, StreamingConnector
from .crew import Crew, Equipment
from .room import PlaceInLine, Room, RoomLine

__all__ = [
    "IO",
    "LARGE_BYTES",
    "NAMES_AT_A_TIME",
    "Arrivals",
    "Crew",
    "Equipment",
    "PlaceInLine",
    "Room",
    "RoomLine",
    "StreamingConnector",
]
