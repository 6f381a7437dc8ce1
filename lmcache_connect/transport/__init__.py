"""Zero-copy byte streams: sockets and TLS, on the event loop or in a thread; dialling; a pool of connections.

Knows bytes, buffers and sockets, and neither chunks nor keys. Imported by `loop`, `outside`, `streaming`, `foreign`,
`testing`, `lmcache_connect_composition`, `lmcache_connect_redis` and `lmcache_connect_s3`.

From the bottom up: `wire` makes the system calls, and `tls_wire` does so for a connection that speaks TLS
(`tls_layer`). `transfer` moves a buffer over a wire in steps. `stream` is what protocol code uses; `loop_stream` and
`thread_stream` are its two kinds. `stall_clock` tells both when the peer has been silent for too long. `courier` runs
protocol code in a thread. `thread_connections` has connections for the threads of callers.
"""

from __future__ import annotations

from .connection import Connection
from .courier import Couriers
from .dialing import open_tcp_stream, open_unix_stream
from .loop_stream import LoopStream
from .pool import ConnectionPool, lost_connection
from .staggered import HEAD_START, first_of
from .stream import Stream
from .thread_connections import ThreadConnections
from .thread_stream import ThreadStream
from .tls import TLSSettings, TLSSettingsError
from .tls_errors import CertificateRefusedError, NoCommonTLSError, NotTLSError
from .transfer import COPIED_BYTES
from .waiting import in_thread, wait_uncancelled
from .wire import StreamClosedError, StreamStalledError, Wire

__all__ = [
    "COPIED_BYTES",
    "HEAD_START",
    "CertificateRefusedError",
    "Connection",
    "ConnectionPool",
    "Couriers",
    "LoopStream",
    "NoCommonTLSError",
    "NotTLSError",
    "Stream",
    "StreamClosedError",
    "StreamStalledError",
    "TLSSettings",
    "TLSSettingsError",
    "ThreadConnections",
    "ThreadStream",
    "Wire",
    "first_of",
    "in_thread",
    "lost_connection",
    "open_tcp_stream",
    "open_unix_stream",
    "wait_uncancelled",
]
