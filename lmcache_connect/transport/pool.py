"""A bounded pool of connections. Nobody but the borrower touches a borrowed one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from ..errors import ConnectorClosedError, StoreError, StoreUnavailableError
from .stream import ByteStream, StreamClosedError


class Pooled(Protocol):
    """A connection as a pool sees it."""

    @property
    def stream(self) -> ByteStream:
        """What it speaks over."""
        ...

    @property
    def is_reusable(self) -> bool:
        """Whether the next borrower finds it where a request may start."""
        ...

    def close(self) -> None:
        """Closes it at once."""
        ...


C = TypeVar("C", bound=Pooled)


def lost_connection(store: str, error: StreamClosedError) -> StoreError:
    """The error for a connection that was lost."""
    return StoreUnavailableError(store, str(error))


class Loan(Generic[C]):
    """One borrowed connection. A lost connection becomes the store's typed error."""

    __slots__ = ("_connection", "_pool")

    def __init__(self, pool: ConnectionPool[C]) -> None:
        self._pool = pool

    async def __aenter__(self) -> C:
        self._connection = await self._pool.acquire()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.give_back(self._connection)
        if isinstance(error, StreamClosedError):
            # Without its frames, here and as its cause: whoever keeps the error would keep what they hold.
            del trace
            raise self._pool.lost(self._pool.store, error) from error.with_traceback(None)


class ConnectionPool(Generic[C]):
    """At most `size` connections to one server; borrowers beyond that wait in order.

    The most recently used idle connection is taken first. One that a cancelled, timed-out or failed borrower leaves in
    the middle of a reply is closed, and disturbs nobody else. Belongs to one event loop.
    """

    def __init__(
        self,
        size: int,
        connect: Callable[[], Awaitable[C]],
        store: str,
        lost: Callable[[str, StreamClosedError], StoreError] = lost_connection,
    ) -> None:
        """`lost` makes the error for a borrower whose connection was lost, of the store's name and what happened."""
        self._size = size
        self._connect = connect
        self.store = store
        self.lost = lost
        self._idle: list[C] = []
        self._borrowed: set[C] = set()
        self._opening = 0
        self._granted = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False

    @property
    def open_connections(self) -> int:
        """Connections that exist or are being opened."""
        return len(self._idle) + len(self._borrowed) + self._opening

    @property
    def waiting(self) -> int:
        """Borrowers that wait."""
        return len(self._waiting)

    def borrow(self) -> Loan[C]:
        """A connection for an `async with` block.

        Raises:
            StoreUnavailableError and what else connecting raises; ConnectorClosedError.
        """
        return Loan(self)

    def give_back(self, connection: C) -> None:
        """Ends a loan."""
        self._borrowed.discard(connection)
        if self._closed or not connection.is_reusable:
            connection.close()
        else:
            self._idle.append(connection)
        self._grant()

    async def acquire(self) -> C:
        """A connection that `give_back` gets again."""
        if self._waiting or self._granted >= self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._granted -= 1  # the turn had come: somebody else takes it
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                self._grant()
                raise
            self._granted -= 1
        if self._closed:
            raise self._closed_error()
        return self._take_idle() or await self._open()

    @property
    def _free(self) -> int:
        return self._size - len(self._borrowed) - self._opening

    def _grant(self) -> None:
        # A turn that was granted keeps its place until its waiter runs: nobody who comes meanwhile may take it.
        while self._waiting and (self._closed or self._granted < self._free):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self._granted += 1

    def _closed_error(self) -> ConnectorClosedError:
        return ConnectorClosedError(f"the connection pool of {self.store}")

    def _take_idle(self) -> C | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.stream.is_quiet():
                self._borrowed.add(connection)
                return connection
            connection.close()  # the server closed it, or said something that nobody asked for
        return None

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
        self._borrowed.add(connection)
        return connection

    def close(self) -> None:
        """Closes every connection; borrowers find theirs closed. Idempotent."""
        self._closed = True
        for connection in (*self._idle, *self._borrowed):
            connection.close()
        self._idle.clear()
        self._grant()
