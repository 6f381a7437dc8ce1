"""`LookupPipeline`: look-ups and removals of many calls, in one write and one read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from lmcache_connect import StoreError
from lmcache_connect.keys import Key
from lmcache_connect.streaming import NAMES_AT_A_TIME, CallQueue, Lane, Pipeline, Sent
from lmcache_connect.transport import ConnectionPool

from ..protocol.connection import Connection
from ..protocol.redirects import RedirectedError
from ..protocol.role import ASK_ROLE, check_role
from .redirectable_call import RedirectableCall

_AHEAD: Final = 4 * NAMES_AT_A_TIME
"""Commands that are sent before replies are read, at most. The event loop does other work in between."""


class LookupCall(RedirectableCall):
    """One command for each key, whose reply is an integer. A request is the commands for some keys, and their number.

    Attributes:
        flags: for each key, in order, whether the reply was the expected one.
    """

    __slots__ = ("_begun", "_encode", "_keys", "flags")

    def __init__(self, keys: Sequence[Key], encode: Callable[[Sequence[Any]], bytes]) -> None:
        """`encode` returns the commands for some of `keys`. It is given them as they are."""
        super().__init__()
        self._keys: Final = keys
        self._encode: Final = encode
        self._begun = 0
        self.flags: list[bool] = []

    def unbegun(self) -> int:
        return -((self._begun - len(self._keys)) // NAMES_AT_A_TIME)

    def next_request(self) -> tuple[tuple[bytes, int], int]:
        start = self._begun
        keys = self._keys[start : start + NAMES_AT_A_TIME]
        self._begun = start + len(keys)
        return (self._encode(keys), len(keys)), 0


class LookupPipeline(Pipeline[Connection, LookupCall]):
    """Sends the commands of many calls together. Reads the replies as they come, many at a time."""

    def __init__(
        self,
        queue: CallQueue[LookupCall],
        finish: Callable[[LookupCall], None],
        gives_way: Callable[[int], bool],
        yes: int,
    ) -> None:
        """`yes` is the reply that stands for yes, one digit."""
        super().__init__(queue, finish, gives_way, in_thread=False)
        self._yes: Final = yes

    async def serve(self, connection: Connection) -> None:
        sent = self.sent
        ahead = 0  # replies that are outstanding
        got = 0  # those to the first request of `sent` that were taken
        is_role_asked = False
        while True:
            if ahead < _AHEAD and connection.takes_requests and not (sent and self.gives_way(0)):
                commands: list[bytes] = []
                before = ahead
                while ahead < _AHEAD and (item := self.next_request()) is not None:
                    call, request, _ = item
                    sent.append(Sent(call, request, 0))
                    commands.append(request[0])
                    ahead += request[1]
                if commands:
                    if not before and connection.is_role_due():  # its reply comes first then
                        is_role_asked = True
                        await connection.send(ASK_ROLE)
                    await connection.send(b"".join(commands), replies=ahead - before)
            if not sent:
                return
            self.current = sent[0].call
            if is_role_asked:
                is_role_asked = False
                await check_role(connection)
            try:
                flags = await connection.read_arrived_flags(self._yes)
            except RedirectedError as error:
                sent[0].call.note_redirect(len(sent[0].call.flags), error)
                flags = [False]
            except StoreError as error:
                if not connection.stream.is_open:
                    raise
                sent[0].call.fail(error)
                flags = [False]
            ahead -= len(flags)
            at = 0
            while at < len(flags):
                call, request, _ = sent[0]
                taken = min(request[1] - got, len(flags) - at)
                call.flags += flags[at : at + taken]
                at += taken
                got += taken
                if got == request[1]:
                    got = 0
                    self.taken()
            if not sent:  # further requests wait until it is known that the connection has nothing more to say
                return


class LookupLane(Lane[Connection, LookupCall]):
    """Look-ups and removals that share a connection to one server."""

    def __init__(self, pool: ConnectionPool[Connection], yes: int) -> None:
        """`yes` is the reply that stands for yes, one digit."""
        # Not repeated: a removal that comes late would remove what was put meanwhile.
        super().__init__(pool, repeats=False, share_bytes=0)
        self._yes: Final = yes

    def pipeline(
        self, queue: CallQueue[LookupCall], finish: Callable[[LookupCall], None], *, in_thread: bool
    ) -> LookupPipeline:
        return LookupPipeline(queue, finish, self.gives_way, self._yes)

    async def serve_one_request(self, connection: Connection, call: LookupCall) -> None:
        (command, replies), _ = call.next_request()
        if is_role_asked := connection.is_role_due():
            await connection.send(ASK_ROLE)
        await connection.send(command, replies)
        if is_role_asked:
            await check_role(connection)
        while connection.pending:
            try:
                call.flags += await connection.read_arrived_flags(self._yes)
            except RedirectedError as error:
                call.note_redirect(len(call.flags), error)
                call.flags.append(False)
            except StoreError as error:
                if not connection.stream.is_open:
                    raise
                call.fail(error)
                call.flags.append(False)
