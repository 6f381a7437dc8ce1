"""`ThreadConnections`: connections that threads use, each by one thread at a time, without the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Final, Generic, TypeVar

from ..process import this_process
from .connection import Connection
from .loop_stream import LoopStream
from .thread_stream import ThreadStream

C = TypeVar("C", bound=Connection)

IDLE_SECONDS: Final = 30.0
"""Connections that were not needed for so long are closed."""

_PAUSE: Final = 1.0
"""Seconds after a connection could not be opened in which no other one is tried."""


class ThreadConnections(Generic[C]):
    """At most `size` connections to one server, for threads. Nobody waits for one.

    The event loop opens them, one after the other, when a thread has found none that is free. Each of them then belongs
    to a `ThreadStream` until it is closed. The one that was used last is taken first. Thread-safe without a lock:
    a connection belongs to the thread that has taken it off the list, which is one step of the interpreter.
    """

    def __init__(self, size: int, connect: Callable[[], Awaitable[C]], loop: asyncio.AbstractEventLoop) -> None:
        """`connect` opens a connection, on `loop`."""
        self._process = this_process()
        self._size = size
        self._connect = connect
        self._loop = loop
        self._free: list[C] = []
        self._all: set[C] = set()
        self._least_free = 0
        """How many were free at all times since the last look."""
        self._pause_ends = -math.inf
        self._opening: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def open_connections(self) -> int:
        """The number of connections that are open."""
        return len(self._all)

    def take(self, deadline: float = math.inf) -> C | None:
        """Returns a connection, which this thread passes to `put_back` later. None: none is free, and one is opened.

        `deadline`: when what waits on it fails, by `time.monotonic`, a tenth of a second later at most.
        """
        if self._process.is_forked():
            return None
        while (connection := self._pop(-1)) is not None:
            self._least_free = min(self._least_free, len(self._free))
            stream = connection.stream
            if not self._closed and connection.is_reusable and isinstance(stream, ThreadStream) and stream.is_quiet():
                stream.deadline = deadline
                return connection
            self._end(connection)  # the server closed it, or sent something without being asked
        if self._opening is None and len(self._all) < self._size and time.monotonic() >= self._pause_ends:
            try:
                self._loop.call_soon_threadsafe(self._open)
            except RuntimeError:
                pass  # the loop was closed
        return None

    def put_back(self, connection: C) -> None:
        """Lets another thread use a connection. Closes it where it cannot be used again."""
        if not connection.is_reusable:
            self._end(connection)
            return
        self._free.append(connection)
        if self._closed:  # looked at when it was on the list: `close` does it the other way round
            self.close_free()

    def close_free(self) -> None:
        """Closes the connections that no thread has. From any thread."""
        while (connection := self._pop(-1)) is not None:
            self._end(connection)

    def close(self) -> None:
        """Closes every connection, also those that threads have. On the event loop. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        self.close_free()
        for connection in [*self._all]:
            connection.close()  # the thread that has it puts it back

    def _pop(self, index: int) -> C | None:
        try:
            return self._free.pop(index)
        except IndexError:
            return None

    def _end(self, connection: C) -> None:
        """Closes a connection that is on no list, and that no other thread has."""
        connection.close()
        if isinstance(connection.stream, ThreadStream):
            connection.stream.hand_back()
        self._all.discard(connection)

    # ---------------------------------------------------------------------------------------------- on the event loop

    def _open(self) -> None:
        if self._opening is None and len(self._all) < self._size and not self._closed:
            # In a context of its own: it outlives the call that it is opened for.
            self._opening = self._loop.create_task(self._open_one(), context=Context())

    async def _open_one(self) -> None:
        try:
            connection = await self._connect()
        except Exception:  # the call that found none goes over the event loop, and tells what is wrong
            self._pause_ends = time.monotonic() + _PAUSE
            return
        finally:
            self._opening = None
        stream = connection.stream
        assert isinstance(stream, LoopStream)  # noqa: S101  # it was just opened
        connection.stream = taken_over = stream.take_over()
        taken_over.look_often()
        self._all.add(connection)
        self.put_back(connection)
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Closes as many as nobody has needed since the last look."""
        for _ in range(self._least_free):
            if (connection := self._pop(0)) is not None:
                self._end(connection)
        self._least_free = len(self._free)
        self._timer = self._loop.call_later(IDLE_SECONDS, self._close_idle) if self._all else None
