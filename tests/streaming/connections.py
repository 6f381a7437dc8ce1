"""Connections without a server, for crews and connectors."""

from __future__ import annotations

from typing import Any, cast

from lmcache_connect.transport import Stream


class FakeConnection:
    """Knows whether it was closed. Nothing may be sent or received over it."""

    is_reusable = False

    def __init__(self) -> None:
        self.stream: Stream = cast(Any, None)
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True
