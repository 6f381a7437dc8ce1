"""What every network store needs: room before bytes arrive, shared connections, the connector's base.

Imported by `lmcache_connect_redis` and `lmcache_connect_s3`. A new network store adds its protocol and nothing else.
"""

from __future__ import annotations

from .arrivals import Arrivals
from .call_queue import CallQueue
from .callers_room import CallersChunk, CallersRoom, OtherChunkError
from .chunk_bytes import ChunkBytes, ChunkRoom
from .combined_call import CallPayload, CombinedCall
from .connector import LARGE_BYTES, NAMES_AT_A_TIME, StreamingConnector
from .divided_arrivals import DividedArrivals
from .lane import SHARE_BYTES, SMALL_SHARE_BYTES, Lane
from .parts_room import ChunkPart, PartsRoom
from .pipeline import Pipeline, Sent
from .reaching import Reaching, certificate_finding
from .room import NoRoomError, Room, RoomLine

__all__ = [
    "LARGE_BYTES",
    "NAMES_AT_A_TIME",
    "SHARE_BYTES",
    "SMALL_SHARE_BYTES",
    "Arrivals",
    "CallPayload",
    "CallQueue",
    "CallersChunk",
    "CallersRoom",
    "ChunkBytes",
    "ChunkPart",
    "ChunkRoom",
    "CombinedCall",
    "DividedArrivals",
    "Lane",
    "NoRoomError",
    "OtherChunkError",
    "PartsRoom",
    "Pipeline",
    "Reaching",
    "Room",
    "RoomLine",
    "Sent",
    "StreamingConnector",
    "certificate_finding",
]
