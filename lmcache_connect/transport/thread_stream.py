"""`ThreadStream`: a connection's bytes, moved by a thread that has taken over its wire.

Who owns what, from `LoopStream.take_over()` to `ThreadStream.hand_back()`:

* `connection.stream` is the thread stream. The loop stream rests, and must not be used.
* One thread, the courier, calls everything that receives or sends, and is the only one to do so.
* The event loop calls nothing but `close()`. A call that waits in the courier then fails.
* The descriptor stays open until the courier has made its last call. Then `hand_back()` closes it, if either side has
  closed the connection meanwhile, or makes the socket non-blocking again for the loop stream.
* A thread stream that was handed back is dead: its calls raise `StreamClosedError`, and its `close()` does nothing.

`Couriers.run` exchanges the two streams of a connection, and always hands back. The connections of `ThreadConnections`
keep their thread stream until they are closed: one thread after the other calls it.
"""

from __future__ import annotations

import math
import time
from typing import ClassVar, Final

from .scratch import HEAD_BYTES
from .stall_clock import SEND_TICK, StallClock
from .stream import Stream
from .transfer import NOTHING, PIECE_BYTES, Hasher, Transfer
from .wire import BLOCKED, StreamClosedError, Wire

_WITHOUT_END: Final = 1 << 62
"""A turn without end: a thread holds up nobody."""


class ThreadStream(Stream):
    """A blocking stream for one thread. Its coroutines never suspend."""

    __slots__ = ("_clock", "_is_handed_back", "_moved", "_tick", "_wire")

    _waits_in_kernel: ClassVar = True

    def __init__(self, wire: Wire) -> None:
        """Takes `wire` over."""
        wire.take_over()
        super().__init__(wire.scratch, wire.peer, wire)
        self._wire = wire
        self._is_handed_back = False
        self._clock = StallClock(wire)
        self._moved = -1
        self._tick = self._clock.tick
        self.deadline = math.inf

    @property
    def deadline(self) -> float:
        """When its calls fail, by `time.monotonic`. They look ahead of each system call, and after a tick."""
        return self._wire.deadline

    @deadline.setter
    def deadline(self, deadline: float) -> None:
        self._wire.deadline = deadline

    def look_often(self) -> None:
        """Has calls that receive look at `deadline` every tenth of a second."""
        self._tick = min(self._tick, SEND_TICK)
        self._wire.end_receiving_after(self._tick)

    async def receive_into(self, dest: memoryview, hasher: Hasher | None = None) -> None:
        """Fills `dest` completely, and shows each piece to `hasher`. One call receives a whole piece.

        Raises:
            StreamClosedError: the connection ended before. `dest` then holds arbitrary bytes.
        """
        # Not by `Receiving.step`, which takes what is there by each call. Here a call waits in the kernel for the whole
        # piece: see `Wire.receive_whole`. The last piece is the exception, because bytes are read ahead behind it.
        wire = self._wire
        update = hasher.update if hasher is not None else None
        size = len(dest)
        position = self._scratch.take_into(dest)
        if position and update is not None:
            update(dest[:position])
        if position == size:
            return
        try:
            self._check_open()
            while position < size:
                rest = dest[position : position + PIECE_BYTES] if position or size > PIECE_BYTES else dest
                length = len(rest)
                try:
                    if position + length == size:
                        count = wire.receive_piece(rest, HEAD_BYTES)
                    else:
                        count = wire.receive_whole(rest)
                except BLOCKED:
                    count = 0
                if not count:
                    self._look_for_stall(self._tick)
                    continue
                position += count
                if update is not None:
                    update(rest if count == length else rest[:count])
        except OSError as error:
            raise self._failed(error) from error.with_traceback(None)
        finally:
            dest = rest = NOTHING  # a kept traceback keeps this frame, and must not keep the buffer

    async def _move(self, transfer: Transfer, *, reading: bool) -> None:
        try:
            self._check_open()
            while True:
                try:
                    if transfer.step(self._wire, _WITHOUT_END) is not None:
                        return
                except BLOCKED:
                    pass
                self._look_for_stall(self._tick if reading else self._clock.send_tick)
        except OSError as error:
            raise self._failed(error) from error.with_traceback(None)
        except BaseException:
            self.close()
            raise
        finally:
            transfer.release()

    def _look_for_stall(self, seconds: float) -> None:
        """To be called when a call has ended by itself after some seconds, because nothing moved.

        Raises:
            StreamStalledError: that was once too often.
            StreamClosedError: the deadline has passed.
        """
        wire, now = self._wire, time.monotonic()
        if now >= self.deadline:
            raise StreamClosedError(f"{self.peer} gave no answer in time")
        moved = wire.bytes_received + wire.bytes_sent
        if moved != self._moved:
            self._moved = moved
            self._clock.moved_at = now - seconds
        if self._clock.left(now) <= 0:
            raise self._clock.error()

    def _check_open(self) -> None:
        if self._is_handed_back or not self._wire.is_open:
            raise self._wire.closed_error()

    def _failed(self, error: OSError) -> Exception:
        failure = self._wire.failure(error)
        self.close()
        return failure

    @property
    def is_open(self) -> bool:
        """Whether this end of the connection is open, and the thread has the wire."""
        return self._wire.is_open and not self._is_handed_back

    def is_quiet(self) -> bool:
        """Returns whether an idle connection can be used again: it is open at both ends, with nothing to read."""
        return self._wire.is_quiet()

    def close(self) -> None:
        """Ends the connection at once. Idempotent. May be called from any thread. A call that waits here fails."""
        if not self._is_handed_back:
            self._wire.close()

    def hand_back(self) -> None:
        """Hands the wire to the event loop again. The thread has made its last call. Idempotent."""
        if not self._is_handed_back:
            self._is_handed_back = True
            self._wire.deadline = math.inf
            self._wire.hand_back()
