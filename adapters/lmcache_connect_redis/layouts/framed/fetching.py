"""`Fetching`: the chunks of one get or batched get, from the store into the arena.

A chunk is one string (whole), or a hash of pieces (striped). Only the store tells which. So the way of a chunk is:

1. `next_ask` asks for a slot's value, or for its first piece if the last chunk that was seen was striped. A slot is the
   position of a key in the call.
2. Where the guess was wrong, the reply is that the value has another type, and the slot is asked for in the other way.
3. A whole chunk is received into the arena. Then the slot is done.
4. The first piece says how large a striped chunk is. Room is made for the chunk, and any member of the crew asks for
   the other pieces.
5. The last piece completes the chunk. If a piece is missing, or belongs to another put, another writer has replaced the
   chunk meanwhile, so it is asked for again, `_TRIES` times in all. After that, or if the same put's piece is missing
   again, the slot is corrupt.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from lmcache_connect import ArenaExhaustedError, CorruptRecordError
from lmcache_connect.errors import FrameError, WrongTypeError
from lmcache_connect.streaming import Arrivals, Equipment

from ...fetch_pipeline import FetchPipeline
from ...protocol.connection import Connection
from ...protocol.replies import encode_command
from .record_reader import RecordReader, StripedChunk

_TRIES: Final = 4
"""How often a slot is asked for because its value was replaced by another while it was being read."""

_FIRST_PIECE_BYTES: Final = 1 << 20
"""What the first piece of a striped chunk probably brings."""


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


_Slot: TypeAlias = int
_Ask: TypeAlias = _Slot | _FirstPiece | _Piece  # what one request asks for; a slot stands for its whole value


class Fetching(FetchPipeline[_Ask]):
    """Asks for the values of slots, and for the pieces of those that are striped."""

    def __init__(
        self, equipment: Equipment[Connection], reader: RecordReader, names: Sequence[str], arrivals: Arrivals
    ) -> None:
        super().__init__(equipment, arrivals)
        self._reader = reader
        self._names = names
        self._slots: deque[_Slot] = deque(range(len(names)))
        self._pieces: deque[_Piece] = deque()
        self._is_striped = reader.last_was_striped  # what is expected of a slot that was not asked for yet
        self._turned: dict[_Slot, bool] = {}  # the same, of those that turned out to be different
        self._tries: dict[_Slot, int] = {}
        self._incomplete: dict[_Slot, int] = {}  # the generation that a piece was missing of
        self._typical = 1 << 20

    def unbegun(self) -> int:
        return len(self._pieces) + len(self._slots)

    def next_ask(self) -> tuple[_Ask, bytes, int]:
        if self._pieces:
            piece = self._pieces.popleft()
            return piece, _hget(piece.chunk.name, piece.index), piece.nbytes
        slot = self._slots.popleft()
        name = self._names[slot]
        if self._turned.get(slot, self._is_striped):
            return _FirstPiece(slot), _hget(name, 0), _FIRST_PIECE_BYTES
        return slot, encode_command(b"GET", name.encode()), self._typical

    def ask_again(self, asks: Iterable[_Ask]) -> None:
        for ask in asks:
            if isinstance(ask, _Piece):
                self._pieces.append(ask)
            elif (slot := ask.slot if isinstance(ask, _FirstPiece) else ask) < self.arrivals.wanted:
                self._slots.append(slot)

    def take(self, connection: Connection, ask: _Ask, outstanding: int) -> Awaitable[int]:
        if isinstance(ask, _Piece):
            return self._take_piece(connection, ask)
        if isinstance(ask, _FirstPiece):
            return self._take_first_piece(connection, ask.slot)
        return self._take_value(connection, ask, outstanding)

    async def _take_value(self, connection: Connection, slot: _Slot, outstanding: int) -> int:
        arrivals = self.arrivals
        try:
            got = await self._reader.receive(connection, self._names[slot], arrivals.room, outstanding)
        except CorruptRecordError as error:
            arrivals.corrupt[slot] = error
            return 0
        except ArenaExhaustedError as error:
            self._end_for_want_of_room(slot, error)
            return 0
        except WrongTypeError:
            self._is_striped = True
            self._turn(slot, True)
            return 0
        arrivals.found[slot] = got
        if got is None:
            return 0
        self._typical = got.get_size()
        return self._typical

    async def _take_first_piece(self, connection: Connection, slot: _Slot) -> int:
        try:
            chunk = await self._reader.begin_striped(connection, self._names[slot], self.arrivals.room)
        except CorruptRecordError as error:
            self.arrivals.corrupt[slot] = error
            return 0
        except ArenaExhaustedError as error:
            self._end_for_want_of_room(slot, error)
            return 0
        except WrongTypeError:
            self._is_striped = False
            self._turn(slot, False)
            return 0
        if chunk is None:
            return 0
        # The other pieces are asked for at once, while the first one is on its way.
        self._pieces.extend(_Piece(chunk, index, slot) for index in range(1, chunk.plan.pieces))
        self.hire()
        start, end = chunk.plan.bounds(0)
        try:
            await self._reader.receive_first_piece(connection, chunk)
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        self._piece_taken(chunk, slot)
        return end - start

    async def _take_piece(self, connection: Connection, piece: _Piece) -> int:
        chunk = piece.chunk
        try:
            if not await self._reader.receive_piece(connection, chunk, piece.index):
                chunk.is_replaced = True
        except WrongTypeError:
            chunk.is_replaced = True
        except CorruptRecordError as error:
            chunk.failure = chunk.failure or error
        self._piece_taken(chunk, piece.slot)
        return piece.nbytes

    def _piece_taken(self, chunk: StripedChunk, slot: _Slot) -> None:
        chunk.left -= 1
        if chunk.left:
            return
        if chunk.failure is None and not chunk.is_replaced:
            self.arrivals.found[slot] = chunk.obj
            return
        chunk.obj.ref_count_down()
        if chunk.failure is not None:
            self.arrivals.corrupt[slot] = chunk.failure
            return
        generation = chunk.plan.generation
        if self._incomplete.get(slot) == generation:
            self.arrivals.corrupt[slot] = FrameError("piece", "a piece of the chunk is missing")
            return
        self._incomplete[slot] = generation
        self._turn(slot, True)

    def _turn(self, slot: _Slot, is_striped: bool) -> None:
        """Has a slot asked for again, in the way that its value seems to need."""
        if slot >= self.arrivals.wanted:
            return
        tries = self._tries[slot] = self._tries.get(slot, 1) + 1
        if tries > _TRIES:
            self.arrivals.corrupt[slot] = CorruptRecordError(
                "replaced", "its value is of another program, or writers replace it all the time"
            )
            return
        self._turned[slot] = is_striped
        self._slots.appendleft(slot)
        self.hire()

    def _end_for_want_of_room(self, slot: _Slot, error: ArenaExhaustedError) -> None:
        if self.arrivals.no_room(slot, error):
            self._slots = deque(slot for slot in self._slots if slot < self.arrivals.wanted)


def _hget(name: str, index: int) -> bytes:
    return encode_command(b"HGET", name.encode(), b"%d" % index)
