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


_SMALL_BYTES: Final = 256 << 10
"""Chunks up to this size are sent several at a time, by one system call."""

_TOGETHER_BYTES: Final = 512 << 10
"""What one such call sends at most. The kernel then finds in the CPU's cache what the hash has read."""

_TOGETHER_CHUNKS: Final = 32
"""How many chunks one such call sends at most."""


def put_requests(
    writer: RecordWriter, names: Sequence[str], objs: Sequence[ChunkBytes], stripe_size: int, *, each_alone: bool
) -> list[StoreRequest]:
    """Returns the requests that put the chunks of one call: one for several small ones, or one for each piece.

    A `stripe_size` of 0 keeps each chunk whole. `each_alone`: each chunk has a request of its own, because something
    is sent ahead of each.

    Raises:
        ValueTooLargeError: a chunk, or a piece of it, fits no value.
    """
    made: list[StoreRequest] = []
    begin = nbytes = 0  # where the small chunks begin that have no request yet, and their bytes
    for slot, (name, obj) in enumerate(zip(names, objs, strict=True)):
        size = obj.get_size()
        is_small = size <= _SMALL_BYTES and not each_alone and not 0 < STRIPES_FROM * stripe_size < size
        if slot > begin and not (is_small and nbytes + size <= _TOGETHER_BYTES and slot - begin < _TOGETHER_CHUNKS):
            made.append(_together(writer, names, objs, begin, slot))
            begin, nbytes = slot, 0
        if is_small:
            writer.check_size(name, obj)
            nbytes += size
            continue
        for request in _requests_of_one(writer, name, obj, stripe_size):
            request.slot = slot
            made.append(request)
        begin = slot + 1
    if begin < len(names):
        made.append(_together(writer, names, objs, begin, len(names)))
    return made


def _together(
    writer: RecordWriter, names: Sequence[str], objs: Sequence[ChunkBytes], begin: int, end: int
) -> StoreRequest:
    request: StoreRequest
    if end - begin == 1:
        request = _WholePut(writer, names[begin], objs[begin])
    else:
        request = _WholePuts(writer, names[begin:end], objs[begin:end], range(begin, end))
    request.slot = begin
    return request


def _requests_of_one(writer: RecordWriter, name: str, obj: ChunkBytes, stripe_size: int) -> Sequence[StoreRequest]:
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


class _WholePuts(StoreRequest):
    """Small chunks, each as one record. They replace whatever stood under their names."""

    def __init__(
        self, writer: RecordWriter, names: Sequence[str], objs: Sequence[ChunkBytes], slots: Sequence[int]
    ) -> None:
        self._writer = writer
        self._names = names
        self._objs = objs
        self._slots = slots
        self.nbytes = sum(obj.get_size() for obj in objs)

    async def send(self, connection: Connection) -> None:
        await self._writer.send_several(connection, self._names, self._objs)

    async def read_replies(self, connection: Connection) -> StoreRequest | None:
        await self._writer.read_several_stored(connection, self._slots)
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
