"""`FetchPipeline`: gets whose requests go ahead of their replies, for many calls over one connection."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, Final

from lmcache_connect import StoreError
from lmcache_connect.streaming import Arrivals, CallQueue, Lane, NoRoomError, Pipeline, Sent
from lmcache_connect.transport import COPIED_BYTES

from ..protocol.connection import Connection
from ..protocol.redirects import ASKING, RedirectedError
from .redirectable_call import RedirectableCall

WINDOW_BYTES: Final = 2 << 20
"""Payload that is asked for ahead on one connection. The server holds it in its output buffer."""

_AT_LEAST: Final = 2
"""Replies that are outstanding, however large they are: the server begins with one while another is received."""

WINDOW_REPLIES: Final = 128
"""Replies that are outstanding on one connection, at most."""


class FetchCall(RedirectableCall):
    """The chunks of one get. A request is a pair: what the layout asks for, and the command for it."""

    __slots__ = ("arrivals",)

    def __init__(self, arrivals: Arrivals, nbytes: int) -> None:
        super().__init__(nbytes)
        self.arrivals: Final = arrivals

    def over(self, connection: Connection, request: Any) -> Any:
        """Returns a request as it is made over `connection`, where that makes a difference."""
        return request

    @abstractmethod
    def take(self, connection: Connection, ask: Any) -> Awaitable[int]:
        """Takes the reply to `ask`. Returns how many bytes it brought.

        It may close the connection where the reply is long and not wanted. What was asked for behind it is then asked
        for again, over another one.

        Raises:
            RedirectedError: another node has it. The stream is usable.
            StoreError: the server refused. The stream is usable, or was closed because it is not.
            NoRoomError: there is no room for the chunk now. The stream is usable, or was closed.
        """

    @abstractmethod
    async def drop(self, connection: Connection, ask: Any) -> None:
        """Takes the reply to `ask` and drops it, or closes the connection where it is long."""

    @abstractmethod
    def slot_of(self, ask: Any) -> int:
        """Returns the position of the key that `ask` belongs to."""

    @abstractmethod
    def ask_again(self, ask: Any) -> None:
        """Has what was asked for asked for again."""

    def requeue(self, request: Any) -> None:
        self.ask_again(request[0])


class FetchPipeline(Pipeline[Connection, FetchCall]):
    """Asks for chunks, and takes them in the order in which they were asked for."""

    async def serve(self, connection: Connection) -> None:
        sent = self.sent
        ahead = moved = 0
        while True:
            # Filled again when half empty: one request after each reply would be one system call for each.
            is_low = len(sent) < _AT_LEAST or (ahead <= WINDOW_BYTES // 2 and len(sent) <= WINDOW_REPLIES // 2)
            if is_low and connection.takes_requests and not self.gives_way(moved):
                commands: list[bytes] = []
                while len(sent) < _AT_LEAST or (ahead < WINDOW_BYTES and len(sent) < WINDOW_REPLIES):
                    item = self.next_request()
                    if item is None:
                        break
                    call, request, nbytes = item
                    request = call.over(connection, request)
                    sent.append(Sent(call, request, nbytes))
                    ahead += nbytes
                    if call.is_asking:
                        commands.append(ASKING)
                    commands.append(request[1])
                if commands:
                    await connection.send(b"".join(commands), replies=len(commands))
            if not sent:
                return
            call, request, nbytes = sent[0]
            self.current = call
            stream = connection.stream
            if not stream.buffered:  # until it comes, the call may end without disturbing the others
                await (stream.peek_available(1) if nbytes <= COPIED_BYTES else stream.peek(1))
            if call.is_asking:
                await connection.read_ok()
            if call.begin(connection, in_thread=self.in_thread):
                try:
                    moved += await call.take(connection, request[0])
                except RedirectedError as error:
                    call.note_redirect(call.slot_of(request[0]), error)
                except (StoreError, NoRoomError) as error:
                    if isinstance(error, StoreError) and not connection.stream.is_open:
                        raise
                    call.fail(error)
                finally:
                    call.let_go(connection)
            else:
                await call.drop(connection, request[0])
            ahead -= nbytes
            self.taken()
            if not connection.stream.is_open:  # closed, because a reply was long and not wanted
                self.requeue_all()
            if not sent:  # further requests wait until it is known that the connection has nothing more to say
                return


class FetchLane(Lane[Connection, FetchCall]):
    """Gets that share connections to one server."""

    def pipeline(
        self, queue: CallQueue[FetchCall], finish: Callable[[FetchCall], None], *, in_thread: bool
    ) -> FetchPipeline:
        return FetchPipeline(queue, finish, self.gives_way, in_thread=in_thread)

    async def serve_one_request(self, connection: Connection, call: FetchCall) -> None:
        request, _ = call.next_request()
        request = call.over(connection, request)
        call.outstanding = 1
        if call.is_asking:
            await connection.send(ASKING + request[1], replies=2)
            await connection.read_ok()
        else:
            await connection.send(request[1])
        if not connection.stream.buffered:
            await connection.stream.peek(1)  # with the beginning of the reply, which may be like the last one's
        try:
            await call.take(connection, request[0])
        except RedirectedError as error:
            call.note_redirect(call.slot_of(request[0]), error)
        except (StoreError, NoRoomError) as error:
            if isinstance(error, StoreError) and not connection.stream.is_open:
                raise
            call.fail(error)
        call.outstanding = 0
