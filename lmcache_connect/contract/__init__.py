"""What authors write against: the connector, the adapter, the context, wrappers, and workers' announcements.

Every adapter and every package above may import it.
"""

from __future__ import annotations

from .adapter import ANY_SCHEME, ConnectorAdapter, ConnectorOptions, scheme_names
from .announcement import (
    MAX_ANNOUNCEMENT_BYTES,
    MAX_WORKERS,
    AnnouncedArena,
    AnnouncedConnector,
    AnnouncedStatistics,
    WorkerAnnouncement,
)
from .batch_slots import BatchSlots
from .batches import gather, hit_prefix, prefix_length
from .breaker import ORDINARY, Admission, BreakerState, CircuitBreaker
from .caller_memory import CallerMemory, Descriptions, bytes_metadata
from .chunk_size import ChunkSize
from .connector import Documents, FactSlots, Flags, Hits, RemoteConnector, Slots
from .context import ConnectorContext
from .diagnosis import Diagnosable, Finding, TellsRoom, Verdict
from .key_facts import KeyFacts, PartSum
from .left_out import counting_left_out, leave_out
from .own_thread import NotInThisThreadError, OwnThreadCalls
from .prefix_adapter import PrefixAdapter
from .removal import REMOVAL_TIMEOUT, RemovalPolicy
from .scanning import end_scan
from .server_facts import ServerFacts
from .server_state import ServerState
from .staging import MISMATCH, Staging, copy_out
from .time_left import Deadlined, note_missed, note_progress, operation_under_way, release_budget_share, seconds_left
from .wrapping_adapter import WrappingAdapter
from .wrapping_connector import WrappingConnector

__all__ = [
    "ANY_SCHEME",
    "MAX_ANNOUNCEMENT_BYTES",
    "MAX_WORKERS",
    "MISMATCH",
    "ORDINARY",
    "REMOVAL_TIMEOUT",
    "Admission",
    "AnnouncedArena",
    "AnnouncedConnector",
    "AnnouncedStatistics",
    "BatchSlots",
    "BreakerState",
    "CallerMemory",
    "ChunkSize",
    "CircuitBreaker",
    "ConnectorAdapter",
    "ConnectorContext",
    "ConnectorOptions",
    "Deadlined",
    "Descriptions",
    "Diagnosable",
    "Documents",
    "FactSlots",
    "Finding",
    "Flags",
    "Hits",
    "KeyFacts",
    "NotInThisThreadError",
    "OwnThreadCalls",
    "PartSum",
    "PrefixAdapter",
    "RemoteConnector",
    "RemovalPolicy",
    "ServerFacts",
    "ServerState",
    "Slots",
    "Staging",
    "TellsRoom",
    "Verdict",
    "WorkerAnnouncement",
    "WrappingAdapter",
    "WrappingConnector",
    "bytes_metadata",
    "copy_out",
    "counting_left_out",
    "end_scan",
    "gather",
    "hit_prefix",
    "leave_out",
    "note_missed",
    "note_progress",
    "operation_under_way",
    "prefix_length",
    "release_budget_share",
    "scheme_names",
    "seconds_left",
]
