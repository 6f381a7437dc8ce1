"""`Connection`: what pools, couriers and rooms ask of the protocol code of a store."""

from __future__ import annotations

from typing import Protocol

from .stream import Stream


class Connection(Protocol):
    """Protocol code that reads and writes `stream`, which may be a loop stream or a thread stream."""

    stream: Stream

    @property
    def is_reusable(self) -> bool:
        """Whether the stream stands where the next caller may send a request."""
        ...

    def close(self) -> None:
        """Closes the connection at once."""
        ...
