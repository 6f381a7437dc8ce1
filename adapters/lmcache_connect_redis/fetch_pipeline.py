"""`FetchPipeline`: gets whose requests go ahead of their replies."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Awaitable, Iterable
from typing import Final, Generic, TypeVar

from lmcache_connect.streaming import Arrivals, Crew, Equipment

from .protocol.connection import FAIR_SHARE_BYTES, Connection

Ask = TypeVar("Ask")

WINDOW_BYTES: Final = 2 << 20
"""Payload that is asked for ahead on one connection. The server holds it in its output buffer."""

WINDOW_REPLIES: Final = 128
"""Replies that are outstanding on one connection, at most."""


class FetchPipeline(Crew[Connection], Generic[Ask]):
    """Asks for the chunks of one get and takes the replies. An `Ask` says what one request asks for."""

    def __init__(self, equipment: Equipment[Connection], arrivals: Arrivals) -> None:
        super().__init__(equipment)
        self.arrivals = arrivals

    async def serve(self, connection: Connection) -> None:
        asked: deque[Ask] = deque()
        expected: deque[int] = deque()  # bytes, for each
        ahead = moved = 0
        while True:
            # Filled again when half empty: one request after each reply would be one system call for each.
            is_low = ahead <= WINDOW_BYTES // 2 and len(asked) <= WINDOW_REPLIES // 2
            if is_low and (moved < FAIR_SHARE_BYTES or not self._pool.waiting):
                commands = []
                while ahead < WINDOW_BYTES and len(asked) < WINDOW_REPLIES and self.unbegun():
                    ask, command, nbytes = self.next_ask()
                    asked.append(ask)
                    expected.append(nbytes)
                    ahead += nbytes
                    commands.append(command)
                if commands:
                    await connection.send(b"".join(commands), replies=len(commands))
            if not asked:
                return
            ask = asked.popleft()
            ahead -= expected.popleft()
            moved += await self.take(connection, ask, 1 + len(asked))
            if not connection.stream.is_open:  # closed by `take`, because the reply was long and not wanted
                self.ask_again(asked)
                return

    @abstractmethod
    def next_ask(self) -> tuple[Ask, bytes, int]:
        """Returns what to ask for next, the command for it, and how many bytes its one reply probably brings."""

    @abstractmethod
    def ask_again(self, asks: Iterable[Ask]) -> None:
        """Has what was asked for and not answered asked for again."""

    @abstractmethod
    def take(self, connection: Connection, ask: Ask, outstanding: int) -> Awaitable[int]:
        """Takes the reply to `ask`, the first of `outstanding`. Returns how many bytes it brought.

        It may close the connection. What was asked for behind `ask` is then asked for again, over another one.
        """
