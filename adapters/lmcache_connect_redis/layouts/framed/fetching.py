"""`Fetching`: the chunks of one get or batched get, from the store into the memory that its room makes.

A chunk is one string (whole), or a hash of pieces (striped). Only the store tells which. So the way of a chunk is:

1. `next_ask` asks for a slot's value, or for its first piece if the last chunk that was seen was striped. A slot is the
   position of a key in the call.
2. Where the guess was wrong, the reply is that the value has another type, and the slot is asked for in the other way.
3. A whole chunk is received into its memory. Then the slot is done.
4. The first piece says how large a striped chunk is. Room is made for the chunk, and the
   other pieces are asked for, over any connection of the lane.
5. The last piece completes the chunk. If a piece is missing, or belongs to another put, another writer has replaced the
   chunk meanwhile, so it is asked for again, `_TRIES` times in all. After that, or if the same put's piece is missing
   again, the slot is corrupt.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from lmcache_connect import ArenaExhaustedError, CorruptRecordError
from lmcache_connect.errors import FrameError, WrongTypeError
from lmcache_connect.record import MIN_HEADER_BYTES, SpreadChunkError
from lmcache_connect.streaming import Arrivals, OtherChunkError

from ...pipelines.fetch_pipeline import FetchCall
from ...protocol.connection import Connection
from ...protocol.redirects import RedirectedError
from ...protocol.replies import encode_command
from .record_reader import RecordReader, StripedChunk

_TRIES: Final = 4
"""How often a slot is asked for because its value was replaced by another while it was being read."""

_FIRST_PIECE_BYTES: Final = 1 << 20
"""What the first piece of a striped chunk probably brings."""

_MAKING: Final = threading.Lock()
"""Held for a moment where a call makes what few calls need, or counts what is left, which threads may do for it at the
same time."""


@dataclass(frozen=True, slots=True)
class _FirstPiece:
    """The first piece of the chunk of a slot."""

    slot: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """Piece `index`, from 1, of the striped chunk of a slot."""

    chunk: StripedChunk
    index: int
    slot: int

    @property
    def nbytes(self) -> int:
        start, end = self.chunk.plan.bounds(self.index)
        return end - start


@dataclass(slots=True)
class _Detours:
    """What is known of slots that were asked for more than once.

    Attributes:
        turned: whether the slot's chunk is striped, where it turned out to be different from what was expected.
        tries: how often the slot was asked for.
        incomplete: the generation that a piece was missing of.
        cut: the striped chunk of a slot whose first piece was cut off, because another call had the connection closed.
    """

    turned: dict[_Slot, bool] = field(default_factory=dict)
    tries: dict[_Slot, int] = field(default_factory=dict)
    incomplete: dict[_Slot, int] = field(default_factory=dict)
    cut: dict[_Slot, StripedChunk] = field(default_factory=dict)


_Slot: TypeAlias = int
_Ask: TypeAlias = _Slot | _FirstPiece | _Piece  # what one request asks for; a slot stands for its whole value


class Fetching(FetchCall):
    """Asks for the values of slots, and for the pieces of those that are striped."""

    __slots__ = ("_again", "_detours", "_is_striped", "_names", "_next", "_pieces", "_reader", "_typical")

    def __init__(self, reader: RecordReader, names: Sequence[str], arrivals: Arrivals, nbytes: int) -> None:
        super().__init__(arrivals, nbytes)
        self._reader = reader
        self._names = names
        self._next = 0
        """The first slot that was not asked for yet."""
        self._again: list[_Slot] = []
        self._pieces: deque[_Piece] | None = None  # made when needed, like `_detours`: each object costs a small get
        self._is_striped = reader.last_was_striped  # what is expected of a slot that was not asked for yet
        self._detours: _Detours | None = None
        self._typical = nbytes // max(len(names), 1)

    def unbegun(self) -> int:
        left = max(self.arrivals.wanted - self._next, 0) + len(self._again)
        return left + len(self._pieces) if self._pieces else left

    def is_amid(self) -> bool:
        return bool(self._pieces)

    def next_request(self) -> tuple[tuple[_Ask, bytes], int]:
        if self._pieces:
            piece = self._pieces.popleft()
            return (piece, _hget(piece.chunk.name, piece.index)), piece.nbytes
        if self._again:
            slot = self._again.pop()
        else:
            slot = self._next
            self._next = slot + 1
        name = self._names[slot]
        is_striped = self._is_striped if self._detours is None else self._detours.turned.get(slot, self._is_striped)
        if is_striped:
            return (_FirstPiece(slot), _hget(name, 0)), _FIRST_PIECE_BYTES
        encoded = name.encode()
        return (slot, b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(encoded), encoded)), self._typical

    def slot_of(self, ask: _Ask) -> int:
        return ask if isinstance(ask, int) else ask.slot

    def ask_again(self, ask: _Ask) -> None:
        if isinstance(ask, _Piece):
            self._made_pieces().appendleft(ask)
            return
        slot = ask.slot if isinstance(ask, _FirstPiece) else ask
        if self._detours is not None and slot in self._detours.cut:
            self._made_pieces().appendleft(_Piece(self._detours.cut.pop(slot), 0, slot))
        elif slot < self.arrivals.wanted:
            self._again.append(slot)

    async def drop(self, connection: Connection, ask: _Ask) -> None:
        await self._reader.drop(connection)

    def take(self, connection: Connection, ask: _Ask) -> Awaitable[int]:
        if isinstance(ask, _Piece):
            return self._take_piece(connection, ask)
        if isinstance(ask, _FirstPiece):
            return self._take_first_piece(connection, ask.slot)
        return self._take_value(connection, ask)

    async def _take_value(self, connection: Connection, slot: _Slot) -> int:
        arrivals = self.arrivals
        try:
            got = await self._reader.receive(connection, self._names[slot], arrivals.room, slot, self.outstanding)
        except CorruptRecordError as error:
            arrivals.corrupt[slot] = error
            if isinstance(error, SpreadChunkError):  # others of the call probably are the same, and as short
                self._typical = MIN_HEADER_BYTES
            return 0
        except ArenaExhaustedError as error:
            self._end_for_want_of_room(slot, error)
            return 0
        except OtherChunkError:
            return 0
        except WrongTypeError:
            self._is_striped = True
            self._turn(slot, True)
            return 0
        arrivals.found[slot] = got
        if got is None:
            return 0
        if self._next < arrivals.wanted:
            self._typical = got.get_size()
        return self._typical

    async def _take_first_piece(self, connection: Connection, slot: _Slot) -> int:
        try:
            chunk = await self._reader.begin_striped(connection, self._names[slot], self.arrivals.room, slot)
        except CorruptRecordError as error:
            self.arrivals.corrupt[slot] = error
            return 0
        except ArenaExhaustedError as error:
            self._end_for_want_of_room(slot, error)
            return 0
        except OtherChunkError:
            return 0
        except WrongTypeError:
            self._is_striped = False
            self._turn(slot, False)
            return 0
        if chunk is None:
            return 0
        # The other pieces are asked for at once, while the first one is on its way.
        self._made_pieces().extend(_Piece(chunk, index, slot) for index in range(1, chunk.plan.pieces))
        self._tell_of_more()
        start, end = chunk.plan.bounds(0)
        try:
            await self._reader.receive_first_piece(connection, chunk)
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        except BaseException:
            self._made_detours().cut[slot] = chunk
            raise
        self._piece_taken(chunk, slot)
        return end - start

    async def _take_piece(self, connection: Connection, piece: _Piece) -> int:
        chunk = piece.chunk
        try:
            if not await self._reader.receive_piece(connection, chunk, piece.index):
                chunk.is_replaced = True
        except WrongTypeError:
            chunk.is_replaced = True
        except RedirectedError as error:
            chunk.redirected = error
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        self._piece_taken(chunk, piece.slot)
        return piece.nbytes

    def _piece_taken(self, chunk: StripedChunk, slot: _Slot) -> None:
        with _MAKING:  # two threads receive the pieces of one chunk: one of them has the last
            chunk.left = left = chunk.left - 1
        if left:
            return
        if chunk.failure is None and chunk.redirected is None and not chunk.is_replaced:
            self.arrivals.found[slot] = chunk.obj
            return
        chunk.obj.ref_count_down()
        if chunk.redirected is not None:  # its key was moved to another node amid the get, which has all of it
            self.note_redirect(slot, chunk.redirected)
            return
        if chunk.failure is not None:
            self.arrivals.corrupt[slot] = chunk.failure
            return
        generation = chunk.plan.generation
        incomplete = self._made_detours().incomplete
        if incomplete.get(slot) == generation:
            self.arrivals.corrupt[slot] = FrameError("piece", "a piece of the chunk is missing")
            return
        incomplete[slot] = generation
        self._turn(slot, True)

    def _turn(self, slot: _Slot, is_striped: bool) -> None:
        """Has a slot asked for again, in the way that its value seems to need."""
        if slot >= self.arrivals.wanted:
            return
        detours = self._made_detours()
        tries = detours.tries[slot] = detours.tries.get(slot, 1) + 1
        if tries > _TRIES:
            self.arrivals.corrupt[slot] = CorruptRecordError(
                "replaced", "its value is of another program, or writers replace it all the time"
            )
            return
        detours.turned[slot] = is_striped
        self._again.append(slot)
        self._tell_of_more()

    def _made_pieces(self) -> deque[_Piece]:
        with _MAKING:
            if self._pieces is None:
                self._pieces = deque()
            return self._pieces

    def _made_detours(self) -> _Detours:
        with _MAKING:
            if self._detours is None:
                self._detours = _Detours()
            return self._detours

    def _tell_of_more(self) -> None:
        if self.more is not None:
            self.more(self)

    def _end_for_want_of_room(self, slot: _Slot, error: ArenaExhaustedError) -> None:
        self.arrivals.no_room(slot, error)  # what is to be asked for again stays: another thread may be taking of it


def _hget(name: str, index: int) -> bytes:
    return encode_command(b"HGET", name.encode(), b"%d" % index)
