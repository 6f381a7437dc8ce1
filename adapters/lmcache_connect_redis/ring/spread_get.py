"""`SpreadGet`: the spread chunks of one get. Their indexes have come; their pieces are on several servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from lmcache_connect import ArenaExhaustedError, StoreError
from lmcache_connect.contract import note_missed
from lmcache_connect.errors import FrameError
from lmcache_connect.record import SpreadChunkError
from lmcache_connect.streaming import Arrivals, OtherChunkError, PartsRoom

from ..nodes.node import Node
from ..topology.placement import Address
from ..topology.ring import Ring
from ..way import Way
from .spread_chunk import SpreadChunk, SpreadPiece, pieces_by_server

Outcomes = Callable[[dict[Address, list[SpreadPiece]]], Awaitable[list[StoreError | None]]]
"""Receives the pieces of each server, side by side. Returns for each what has failed."""


class SpreadGet:
    """Receives pieces straight into the memory of their chunks, which is made first, by the rules of the get's room."""

    def __init__(self, ring: Ring, arrivals: Arrivals) -> None:
        self._ring: Final = ring
        self._arrivals: Final = arrivals
        self.lasting: StoreError | None = None
        """The first failure that is none of a moment."""
        self.first: StoreError | None = None
        """The first failure of a server."""
        self.has_met = False
        """Whether there was a spread chunk."""

    async def receive(self, names: Sequence[str], outcomes: Outcomes) -> list[int]:
        """Receives the chunks whose indexes stand in `corrupt` of the arrivals.

        Returns the slots of those that a piece is missing of, on a server that has answered.
        """
        chunks = await self._with_room(names)
        if not chunks:
            return []
        groups = pieces_by_server(self._ring, chunks)
        for (_, pieces), error in zip(groups.items(), await outcomes(groups), strict=True):
            if error is None:
                continue
            self.failed(error)
            for piece in pieces:
                piece.chunk.failure = piece.chunk.failure or error
        return self._finish(chunks)

    def failed(self, error: StoreError) -> None:
        """Told of the failure of a server."""
        self.first = self.first or error
        if error.permanent:
            self.lasting = self.lasting or error

    async def _with_room(self, names: Sequence[str]) -> list[SpreadChunk]:
        """Makes room for the chunks, in the order of the keys."""
        arrivals = self._arrivals
        indexes = {slot: error for slot, error in arrivals.corrupt.items() if isinstance(error, SpreadChunkError)}
        self.has_met = self.has_met or bool(indexes)
        chunks: list[SpreadChunk] = []
        for slot, index in sorted(indexes.items()):
            if slot >= arrivals.wanted:
                break
            if index.plan.pieces > len(self._ring.addresses):
                continue  # a miss, by the error that says so
            try:
                obj = await arrivals.room.make(index.metadata, slot)
            except ArenaExhaustedError as error:
                del arrivals.corrupt[slot]
                arrivals.no_room(slot, error)
                continue
            except OtherChunkError:
                del arrivals.corrupt[slot]
                continue
            del arrivals.corrupt[slot]
            chunks.append(SpreadChunk(slot, names[slot], index.plan, obj))
        return chunks

    def failure(self) -> list[StoreError]:
        """Returns the failure to raise, if there is one, and forgets it."""
        errors = [error for error in (self.lasting or self.first,) if error is not None]
        self.lasting = self.first = None
        return errors

    def _finish(self, chunks: Sequence[SpreadChunk]) -> list[int]:
        incomplete: list[int] = []
        for chunk in chunks:
            if not chunk.left:
                self._arrivals.found[chunk.slot] = chunk.obj
                continue
            chunk.obj.ref_count_down()
            if chunk.damage is not None:
                self._arrivals.corrupt[chunk.slot] = chunk.damage
            elif chunk.is_incomplete:
                incomplete.append(chunk.slot)
            elif chunk.failure is not None:
                note_missed(type(chunk.failure).__name__)
        return incomplete


async def receive_pieces(node: Node, pieces: Sequence[SpreadPiece]) -> None:
    """Receives pieces from one server. What has come is kept where the attempt after it fails."""
    left = [*pieces]

    async def attempt() -> bool:
        nonlocal left
        asked, left = left, []
        room = PartsRoom([piece.part() for piece in asked])
        arrivals = Arrivals(len(asked), room)
        names = [piece.name for piece in asked]
        is_answered = False
        try:
            nbytes = sum([piece.nbytes for piece in asked])
            await node.connector.receive(names, names, arrivals, nbytes=nbytes, way=Way.PART)
            is_answered = True
        finally:
            room.release()
            left = [piece for at, piece in enumerate(asked) if not _is_known(piece, arrivals, room, at, is_answered)]
        return any(part is not None for part in arrivals.found)

    await node.call("get", attempt, is_transfer=True)


def _is_known(piece: SpreadPiece, arrivals: Arrivals, room: PartsRoom, at: int, is_answered: bool) -> bool:
    """Tells a chunk what became of its piece. Returns whether that is known."""
    chunk = piece.chunk
    if arrivals.found[at] is not None:
        chunk.left -= 1
    elif at in arrivals.corrupt:
        chunk.damage = chunk.damage or arrivals.corrupt[at]
    elif is_answered and at in room.unfit:
        chunk.damage = chunk.damage or FrameError("piece", "a piece of the spread chunk has another length")
    elif is_answered:
        chunk.is_incomplete = True
    else:
        return False
    return True
