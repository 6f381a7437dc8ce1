"""What every network store needs: room in the arena before bytes arrive, workers, the connector's base.

Imported by the adapters of network stores. A new store adds its protocol and nothing else.
"""

from __future__ import annotations

from .room import PlaceInLine, Room, RoomLine

__all__ = ["PlaceInLine", "Room", "RoomLine"]
