"""A lane of a small protocol, over real sockets whose other ends belong to the test.

A request is a line: the call's name and a number. The reply is the same line again, or one that begins with "-" and
refuses. A call is touched from the first byte of a reply to its last.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable

from lmcache_connect import StoreError
from lmcache_connect.streaming import CallQueue, CombinedCall, Lane, Pipeline, Sent
from lmcache_connect.transport import ConnectionPool, Stream
from lmcache_connect.transport.loop_stream import LoopStream
from lmcache_connect.transport.wire import Wire

LONG = 20.0

AHEAD = 4
"""Requests that are sent before replies are read."""


class Connection:
    """One connection, and the other end of it."""

    def __init__(self) -> None:
        here, self.peer = socket.socketpair()
        here.setblocking(False)
        self.peer.setblocking(False)
        self.stream: Stream = LoopStream(Wire(here, "the peer"), asyncio.get_running_loop())
        self.pending = 0
        self._asked = b""

    @property
    def is_reusable(self) -> bool:
        return self.stream.is_open and not self.pending and not self.stream.buffered

    def close(self) -> None:
        self.stream.close()

    async def asked(self, count: int = 1) -> list[str]:
        """The next requests that come to the other end, as soon as there are so many."""
        async with asyncio.timeout(LONG):
            while self._asked.count(b"\r\n") < count:
                more = await asyncio.get_running_loop().sock_recv(self.peer, 4096)
                assert more, "the connection was closed"
                self._asked += more
        *lines, self._asked = self._asked.split(b"\r\n", count)
        return [line.decode() for line in lines]

    def say(self, text: str) -> None:
        """Has the other end send something."""
        self.peer.send(text.encode())

    def answer(self, *requests: str) -> None:
        """Has the other end answer requests."""
        for request in requests:
            self.say(f"{request}\r\n")

    async def answer_all(self) -> None:
        """Has the other end answer every request, until this is cancelled."""
        while True:
            self.answer(*await self.asked())


class Server:
    """What a pool connects to."""

    def __init__(self, size: int = 4) -> None:
        self.connections: list[Connection] = []
        self.pool: ConnectionPool[Connection] = ConnectionPool(size, self._connect, "the store")
        self.failures: list[Exception] = []
        self.answers: list[str] = []
        """What the other ends of the connections to come say before they are asked."""
        self.opened = asyncio.Event()
        """Is set when a connection was opened, or has failed to."""
        self.answers_connecting: asyncio.Event | None = None
        """Connecting hangs until it is set. None: it does not hang."""

    async def _connect(self) -> Connection:
        self.opened.set()
        if self.answers_connecting is not None:
            await self.answers_connecting.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.connections.append(Connection())
        if self.answers:
            self.connections[-1].say(self.answers.pop(0))
        return self.connections[-1]

    async def connection(self, index: int) -> Connection:
        """The connection that was opened as number `index`, as soon as it is there."""
        async with asyncio.timeout(LONG):
            while len(self.connections) <= index:
                self.opened.clear()
                await self.opened.wait()
        return self.connections[index]

    def close(self) -> None:
        self.pool.close()
        for connection in self.connections:
            connection.peer.close()


class Lines(CombinedCall):
    """Asks for as many lines as it is told to."""

    def __init__(self, name: str, count: int = 1) -> None:
        super().__init__()
        self.name = name
        self.left = [f"{name}{number}" for number in range(count)]
        self.got: list[str] = []
        self.threads: set[int] = set()
        self.on_touch: Callable[[], None] | None = None

    def unbegun(self) -> int:
        return len(self.left)

    def next_request(self) -> tuple[str, int]:
        return self.left.pop(0), 1

    def requeue(self, request: str) -> None:
        self.left.insert(0, request)

    async def take(self, connection: Connection, request: str) -> None:
        if self.on_touch is not None:
            self.on_touch()
        line = (await connection.stream.read_until_crlf()).decode()
        connection.pending -= 1
        self.threads.add(threading.get_ident())
        if line.startswith("-"):
            raise StoreError("the store", line)
        assert line == request
        self.got.append(line)


class LinesPipeline(Pipeline[Connection, Lines]):
    async def serve(self, connection: Connection) -> None:
        while True:
            requests = []
            while len(self.sent) < AHEAD and (item := self.next_request()) is not None:
                self.sent.append(Sent(*item))
                requests.append(item[1])
            if requests:
                connection.pending += len(requests)
                await connection.stream.send("".join(f"{request}\r\n" for request in requests).encode())
            if not self.sent:
                return
            call, request, _ = self.sent[0]
            self.current = call
            await connection.stream.peek(1)
            if call.begin(connection, in_thread=self.in_thread):
                try:
                    await call.take(connection, request)
                except StoreError as error:
                    call.fail(error)
                finally:
                    call.let_go(connection)
            else:
                await connection.stream.read_until_crlf()
                connection.pending -= 1
            self.taken()
            if not connection.stream.is_open:
                self.requeue_all()
            if not self.sent:
                return


class LinesLane(Lane[Connection, Lines]):
    tell_finished: Callable[[Lines], None]
    """What the last pipeline was given to tell the lane of calls for which nothing more happens."""

    def pipeline(
        self, queue: CallQueue[Lines], finish: Callable[[Lines], None], *, in_thread: bool
    ) -> Pipeline[Connection, Lines]:
        self.tell_finished = finish
        return LinesPipeline(queue, finish, self.gives_way, in_thread=in_thread)

    async def serve_one_request(self, connection: Connection, call: Lines) -> None:
        request, _ = call.next_request()
        connection.pending += 1
        await connection.stream.send(f"{request}\r\n".encode())
        try:
            await call.take(connection, request)
        except StoreError as error:
            call.fail(error)

    def start(self, *calls: Lines) -> list[asyncio.Task[None]]:
        """Runs calls, each in a task of its own."""

        async def run(call: Lines) -> None:
            await self.run(call)

        return [asyncio.ensure_future(run(call)) for call in calls]
