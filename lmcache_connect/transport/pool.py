"""`ConnectionPool`: a bounded number of connections to one server, each used by one caller at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Generic, TypeVar

from ..errors import (
    CertificateError,
    ConnectorClosedError,
    StoreError,
    StoreStalledError,
    StoreUnavailableError,
    TLSMismatchError,
)
from ..process import this_process
from .connection import Connection
from .loop_stream import LoopStream
from .scratch import Scratch
from .stream import Stream
from .tls_errors import CertificateRefusedError, NoCommonTLSError
from .transfer import Transfer
from .wire import StreamClosedError, StreamStalledError

C = TypeVar("C", bound=Connection)


def lost_connection(store: str, error: StreamClosedError) -> StoreError:
    """Returns the error that a caller gets whose connection was lost, or could not be made."""
    if isinstance(error, CertificateRefusedError):
        return CertificateError(store, str(error))
    if isinstance(error, NoCommonTLSError):
        return TLSMismatchError(store, str(error))
    if isinstance(error, StreamStalledError):
        return StoreStalledError(store, str(error))
    return StoreUnavailableError(store, str(error))


class ConnectionPool(Generic[C]):
    """At most `size` connections to one server. Callers beyond that wait in order.

    The most recently used idle connection is taken first. A connection that is released in the middle of a reply,
    because its caller was cancelled or failed, is closed and never handed out again. A released
    connection cannot be used by its old caller: the pool keeps the stream. Belongs to one event loop.
    """

    def __init__(
        self,
        size: int,
        connect: Callable[[], Awaitable[C]],
        store: str,
        lost: Callable[[str, StreamClosedError], StoreError] = lost_connection,
        renew: Callable[[C], Awaitable[None] | None] | None = None,
    ) -> None:
        """`lost` translates the loss of a connection: it gets the store's name and the stream's error.

        `renew` is asked before an idle connection is used. It returns what is to be awaited first, such as another
        login; None: nothing. Where that raises a `StoreError` or a `StreamClosedError`, another connection is taken.
        """
        self._process = this_process()
        self._size = size
        self._connect = connect
        self._renew = renew
        self.store = store
        self._what = f"the connection pool of {store}"
        self.lost = lost
        self._idle: list[tuple[C, LoopStream]] = []
        self._acquired: set[C] = set()
        self._opening = 0
        self._granted = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._is_idle_suspect = False

    @property
    def open_connections(self) -> int:
        """The number of connections that exist or are being opened."""
        return len(self._idle) + len(self._acquired) + self._opening

    @property
    def waiting(self) -> int:
        """The number of callers that wait for a connection."""
        return len(self._waiting)

    def acquired(self) -> _Acquired[C]:
        """Returns an async context manager: the block has a connection, which is released at its end.

        Raises, on entry:
            ConnectorClosedError: the pool is closed.
            StoreUnavailableError, and what else connecting raises.
        Raises, on exit:
            The store's error (`lost`), in place of a `StreamClosedError` of the block.
        """
        return _Acquired(self)

    async def acquire(self) -> C:
        """Returns a connection, which the caller passes to `release` later. Raises what `acquired` raises on entry."""
        self._process.check(self._what)
        if not self._closed and (self._waiting or self._granted >= self._free):
            grant: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(grant)
            try:
                await grant
            except BaseException:
                if grant.done() and not grant.cancelled():
                    self._granted -= 1  # it was granted already: the next caller takes it
                elif grant in self._waiting:
                    self._waiting.remove(grant)
                self._grant()
                raise
            self._granted -= 1
        if self._closed:
            raise self._closed_error()
        while (connection := self._take_idle()) is not None:
            if (
                self._renew is None
                or (job := self._renew(connection)) is None
                or await self._is_renewed(connection, job)
            ):
                return connection
        return await self._open()

    def release(self, connection: C) -> None:
        """Puts a connection back. Closes it where it cannot be used again.

        Raises:
            KeyError: it was released before.
        """
        self._acquired.remove(connection)
        stream = connection.stream
        if self._closed or not connection.is_reusable or not isinstance(stream, LoopStream):
            connection.close()
        else:
            connection.stream = _RELEASED
            self._idle.append((connection, stream))
        self._grant()

    @property
    def _free(self) -> int:
        return self._size - len(self._acquired) - self._opening

    def _grant(self) -> None:
        # A grant keeps its place until its waiter runs: a caller that comes in between must not take it.
        while self._waiting and (self._closed or self._granted < self._free):
            grant = self._waiting.popleft()
            if not grant.done():
                grant.set_result(None)
                self._granted += 1

    def _closed_error(self) -> ConnectorClosedError:
        return ConnectorClosedError(self._what)

    def _take_idle(self) -> C | None:
        if self._is_idle_suspect:
            self._is_idle_suspect = False
            self._close_idle()
        while self._idle:
            connection, stream = self._idle.pop()
            connection.stream = stream
            if connection.is_reusable and stream.is_quiet():  # asked again: its server's role may have changed
                self._acquired.add(connection)
                return connection
            stream.close()  # the server closed it, or sent something without being asked
        return None

    async def _is_renewed(self, connection: C, job: Awaitable[None]) -> bool:
        """Renews a connection that was taken. Returns whether it can be used; otherwise it is closed and forgotten."""
        try:
            await job
            if connection.is_reusable:
                return True
        except (StreamStalledError, StoreStalledError):
            self.suspect_idle()  # otherwise each of them would cost a call as long
        except (StoreError, StreamClosedError):
            pass  # the one that is opened in its place tells what is wrong
        except BaseException:
            connection.close()
            self.release(connection)
            raise
        connection.close()
        self._acquired.discard(connection)
        if self._closed:
            self._grant()
            raise self._closed_error()
        return False

    async def _open(self) -> C:
        self._opening += 1
        try:
            connection = await self._connect()
        except BaseException:
            self._opening -= 1
            self._grant()
            raise
        self._opening -= 1
        if self._closed:
            connection.close()
            raise self._closed_error()
        self._acquired.add(connection)
        return connection

    def suspect_idle(self) -> None:
        """No connection that is idle now is used again: the next callers open others. Safe in any thread."""
        self._is_idle_suspect = True

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def close(self) -> None:
        """Closes every connection, also those in use. Waiting callers get `ConnectorClosedError`. Idempotent."""
        self._closed = True
        for connection in self._acquired:
            connection.close()
        self._close_idle()
        self._grant()


class _ReleasedStream(Stream):
    """The stream of every idle connection."""

    __slots__ = ()

    async def _move(self, transfer: Transfer, *, reading: bool) -> None:
        transfer.release()
        raise RuntimeError("this connection was released to its pool; use it inside `async with pool.acquired()` only")

    @property
    def is_open(self) -> bool:
        return False

    def close(self) -> None:
        """Does nothing: the pool closes what it keeps."""


_RELEASED: Final = _ReleasedStream(Scratch(0), "nobody")


class _Acquired(Generic[C]):
    """`ConnectionPool.acquired()`. A class, because `@asynccontextmanager` costs microseconds a call."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ConnectionPool[C]) -> None:
        self._pool = pool

    async def __aenter__(self) -> C:
        self._connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.release(self._connection)
        if isinstance(error, StreamClosedError):
            # Without its frames, here and as its cause: they hold views of buffers, and a caller may keep the error.
            del trace
            raise self._pool.lost(self._pool.store, error) from error.with_traceback(None)
