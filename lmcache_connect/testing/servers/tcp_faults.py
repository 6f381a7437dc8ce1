"""`Fault`: one thing that goes wrong on a TCP connection, at an exact byte."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ...errors import InvalidArgumentError


class Direction(StrEnum):
    """The direction of the bytes."""

    TO_CLIENT = "to_client"
    TO_SERVER = "to_server"


class FaultKind(StrEnum):
    """What goes wrong, after `after_bytes` bytes in the fault's direction."""

    RESET = "reset"
    """Both peers get a TCP reset. What they had not read yet may be lost to them, as with any reset."""
    CLOSE = "close"
    """Both peers get an orderly end (FIN). What they send afterwards is discarded."""
    TRUNCATE_AND_CLOSE = "truncate_and_close"
    """The receiver gets exactly `after_bytes` bytes and an orderly end. The sender does not notice. The rest of what it
    sends is discarded. The other direction goes on."""
    STALL = "stall"
    """Nothing more is forwarded until the fault is disarmed. Nothing more is read once the buffers are full."""
    SWALLOW = "swallow"
    """Bytes are read and discarded. The end of the stream is still passed on."""
    DELAY = "delay"
    """Bytes, and the end of the stream, are forwarded `delay` seconds after they arrived, in order."""
    DRIP = "drip"
    """Bytes are forwarded slowly: `rate` of them in a second. The rest waits, and back-pressure is passed on."""
    INSERT = "insert"
    """`data` is sent to the receiver in between, as if the sender had sent it, once on a connection."""
    FLIP = "flip"
    """The lowest bit of the next byte is inverted, once on a connection."""
    REFUSE = "refuse"
    """A new connection is accepted and closed at once, without one to the server. A client that has sent
    something by then gets a reset, any other an orderly end."""


@dataclass(frozen=True)
class Fault:
    """One thing to go wrong.

    Each time it is armed, it fires at most once on each connection: just before the first byte past `after_bytes` is
    forwarded. The kinds that end a connection fire right after `after_bytes` bytes, if that is not 0. So nothing
    happens to an idle connection.

    Attributes:
        kind: what goes wrong.
        direction: the bytes that are counted and harmed. Without meaning for `REFUSE`.
        after_bytes: bytes forwarded unharmed, counted on each connection from the moment the fault was armed.
        delay: seconds, for `DELAY` alone.
        rate: bytes per second, for `DRIP` alone.
        data: what is inserted, for `INSERT` alone.
        count: on how many connections it fires before it disarms itself; None: until it is disarmed. Having disarmed
            itself, it still holds on the connections where it fired.

    Raises:
        InvalidArgumentError: a value is out of range, or has no meaning for the kind.
    """

    kind: FaultKind
    direction: Direction = Direction.TO_CLIENT
    after_bytes: int = 0
    delay: float = 0.0
    count: int | None = None
    rate: int = 0
    data: bytes = b""

    def __post_init__(self) -> None:
        if self.after_bytes < 0:
            raise InvalidArgumentError("after_bytes", f"{self.after_bytes} is negative; expected 0 or more")
        if self.count is not None and self.count < 1:
            raise InvalidArgumentError("count", f"{self.count} never fires; expected 1 or more, or None")
        if self.kind is FaultKind.DELAY and not self.delay > 0:
            raise InvalidArgumentError("delay", f"{self.delay} delays nothing; expected more than 0 seconds")
        if self.kind is not FaultKind.DELAY and self.delay != 0:
            raise InvalidArgumentError("delay", f"it has no meaning for {self.kind}; expected 0")
        if self.kind is FaultKind.DRIP and self.rate < 1:
            raise InvalidArgumentError("rate", f"{self.rate} forwards nothing; expected 1 byte per second or more")
        if self.kind is not FaultKind.DRIP and self.rate:
            raise InvalidArgumentError("rate", f"it has no meaning for {self.kind}; expected 0")
        if (self.kind is FaultKind.INSERT) is not bool(self.data):
            expected = "some bytes" if self.kind is FaultKind.INSERT else "none"
            raise InvalidArgumentError("data", f"{len(self.data)} bytes for {self.kind}; expected {expected}")
        if self.kind is FaultKind.REFUSE and self.after_bytes:
            raise InvalidArgumentError("after_bytes", "it has no meaning for refuse; expected 0")
