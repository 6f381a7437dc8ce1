"""The requests of a put: whole chunks, or pieces and then the transaction that puts the chunk in its place.

The pieces of a striped chunk become fields of a hash under a temporary name, which expires. So what a killed writer
leaves goes away. When all pieces are there, one `RENAME` replaces whatever stood under the chunk's own name. See
`docs/record.md`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from secrets import randbits
from typing import Final

from lmcache_connect.record import MIN_STRIPE_BYTES, StripePlan, staging_name
from lmcache_connect.streaming import ChunkBytes

from ...pipelines.store_pipeline import Names, StoreRequest
from ...protocol.connection import Connection
from ...protocol.redirects import RedirectedError, whole_instead
from .record_writer import RecordWriter

STRIPES_FROM: Final = 4
"""A chunk of more than so many stripes is striped. A smaller one is written and read at least as fast as one value."""

_RECORD_BYTES: Final = 4 << 10
"""What a piece leaves of its stripe for the rest of its record, and for what the server adds to a value.

Allocators round up: with a full MiB of payload, a piece would take a quarter more of the server's memory than it holds.
"""


def put_requests(writer: RecordWriter, name: str, obj: ChunkBytes, stripe_size: int) -> Sequence[StoreRequest]:
    """Returns the requests that put one chunk: one, or one for each of its pieces. A `stripe_size` of 0 keeps it whole.

    Raises:
        ValueTooLargeError: the chunk, or a piece of it, fits no value.
    """
    nbytes = obj.get_size()
    if not stripe_size or nbytes <= STRIPES_FROM * stripe_size:
        writer.check_size(name, obj)
        return [_WholePut(writer, name, obj)]
    if stripe_size - _RECORD_BYTES >= MIN_STRIPE_BYTES:
        stripe_size -= _RECORD_BYTES
    plan = StripePlan(nbytes, stripe_size, randbits(63) + 1)
    writer.check_piece_size(name, obj, plan)
    put = _StripedPut(writer, name, obj, plan)
    return [_PiecePut(put, index) for index in range(plan.pieces)]


class _WholePut(StoreRequest):
    """A chunk as one record. It replaces whatever stood under its name."""

    def __init__(self, writer: RecordWriter, name: str, obj: ChunkBytes) -> None:
        self._writer = writer
        self._name = name
        self._obj = obj
        self.nbytes = obj.get_size()

    async def send(self, connection: Connection) -> None:
        await self._writer.send_whole(connection, self._name, self._obj)

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        await connection.read_ok()
        return None


class _StripedPut:
    """What the pieces of one put of a striped chunk share."""

    def __init__(self, writer: RecordWriter, name: str, obj: ChunkBytes, plan: StripePlan) -> None:
        self.writer = writer
        self.name = name
        self.obj = obj
        self.plan = plan
        self._lock = threading.Lock()  # several threads may take replies to its pieces
        self.staging = staging_name(name)
        self.unanswered = plan.pieces
        self.held = 0
        """The most pieces that the server was seen to hold."""
        self.is_begun = False
        self.is_redirected = False
        """Whether the node did not take a piece, because another one has the slot. No further piece is sent there."""

    def answered(self, held: int) -> bool:
        """Told that a piece was stored, and how many the server held then. Returns whether it was the last answer."""
        with self._lock:
            self.held = max(self.held, held)  # another thread may have raised it meanwhile
            self.unanswered -= 1
            return not self.unanswered


class _PiecePut(StoreRequest):
    """A piece of a striped chunk. All of them must be there before the chunk is put in its place."""

    def __init__(self, put: _StripedPut, index: int) -> None:
        self._put = put
        self._index = index
        start, end = put.plan.bounds(index)
        self.nbytes = end - start
        self.is_last = index == put.plan.pieces - 1
        self._is_sent = False

    async def send(self, connection: Connection) -> None:
        put = self._put
        if put.is_redirected:
            return
        self._is_sent = True
        put.is_begun = True
        await put.writer.send_piece(connection, put.name, put.staging, put.obj, put.plan, self._index)

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        put = self._put
        if not self._is_sent:
            return None
        try:
            held = await put.writer.read_piece_stored(connection)
        except RedirectedError as error:
            put.is_redirected = True
            raise whole_instead(error) from None
        if not put.answered(held):
            return None
        if put.held != put.plan.pieces:
            # The server evicted the first pieces and then took the others. Nothing but the count would show it.
            raise put.writer.evicted()
        return _Commit(put)

    def staged(self) -> Names:
        return [self._put.staging] if self._index == 0 and self._put.is_begun else []


class _Commit(StoreRequest):
    """The transaction that puts a complete chunk in its place. If the put fails before, the chunk was not stored."""

    def __init__(self, put: _StripedPut) -> None:
        self._put = put

    async def send(self, connection: Connection) -> None:
        put = self._put
        await put.writer.send_commit(connection, put.name, put.staging)

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        try:
            await self._put.writer.read_committed(connection)
        except RedirectedError as error:
            raise whole_instead(error) from None
        return None
