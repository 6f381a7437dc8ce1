"""Zero-copy byte streams: sockets and TLS, on the event loop or in a thread; dialling; a pool of connections.

Knows bytes, buffers and sockets, and neither chunks nor keys. Imported by `streaming`, by the adapters, and by tests.
"""

from __future__ import annotations

from .courier import Couriers, in_thread
from .dialing import TLSSettings, TLSSettingsError, open_tcp_stream, open_unix_stream
from .pool import ConnectionPool
from .stream import ByteStream, StreamClosedError

__all__ = [
    "ByteStream",
    "ConnectionPool",
    "Couriers",
    "StreamClosedError",
    "TLSSettings",
    "TLSSettingsError",
    "in_thread",
    "open_tcp_stream",
    "open_unix_stream",
]
