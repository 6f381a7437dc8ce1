"""Zero-copy byte streams on the event loop."""

from __future__ import annotations

from .courier import Couriers, in_thread
from .dialing import TLSSettings, TLSSettingsError, open_tcp_stream, open_unix_stream
from .stream import ByteStream, StreamClosedError

__all__ = [
    "ByteStream",
    "Couriers",
    "StreamClosedError",
    "TLSSettings",
    "TLSSettingsError",
    "in_thread",
    "open_tcp_stream",
    "open_unix_stream",
]
