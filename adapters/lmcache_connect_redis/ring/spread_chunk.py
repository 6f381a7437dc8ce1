"""`SpreadChunk`: a chunk whose pieces are received from several servers, or sent to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from lmcache_connect import CorruptRecordError, StoreError
from lmcache_connect.record import SpreadPlan, piece_names
from lmcache_connect.streaming import ChunkBytes, ChunkPart

from ..topology.placement import Address
from ..topology.ring import Ring


class SpreadChunk:
    """The chunk of one key of a call.

    Attributes:
        slot: the position of the key in the call.
        left: the pieces that were not moved yet.
        damage: why a piece did not verify.
        failure: why a server did not move its piece.
        is_incomplete: whether a server does not hold its piece.
    """

    def __init__(self, slot: int, name: str, plan: SpreadPlan, obj: ChunkBytes) -> None:
        self.slot: Final = slot
        self.name: Final = name
        self.plan: Final = plan
        self.obj: Final = obj
        self.left = plan.pieces
        self.damage: CorruptRecordError | None = None
        self.failure: StoreError | None = None
        self.is_incomplete = False


class SpreadPiece:
    """A piece of a spread chunk, and the server that it lies on."""

    __slots__ = ("chunk", "end", "name", "start")

    def __init__(self, chunk: SpreadChunk, name: str, index: int) -> None:
        self.chunk: Final = chunk
        self.name: Final = name
        self.start, self.end = chunk.plan.bounds(index)

    @property
    def nbytes(self) -> int:
        """The piece's size in bytes."""
        return self.end - self.start

    def part(self) -> ChunkPart:
        """The bytes of the piece, in the memory of its chunk."""
        return ChunkPart(self.chunk.obj, self.start, self.end)


def pieces_by_server(ring: Ring, chunks: Iterable[SpreadChunk]) -> dict[Address, list[SpreadPiece]]:
    """Returns for each server the pieces that lie on it."""
    groups: dict[Address, list[SpreadPiece]] = {}
    for chunk in chunks:
        for index, (address, name) in enumerate(placed_pieces(ring, chunk.name, chunk.plan)):
            groups.setdefault(address, []).append(SpreadPiece(chunk, name, index))
    return groups


def names_by_server(ring: Ring, plans: Iterable[tuple[str, SpreadPlan]]) -> dict[Address, list[str]]:
    """Returns for each server the names of the pieces that lie on it, of chunks by name and plan."""
    groups: dict[Address, list[str]] = {}
    for name, plan in plans:
        for address, piece in placed_pieces(ring, name, plan):
            groups.setdefault(address, []).append(piece)
    return groups


def placed_pieces(ring: Ring, name: str, plan: SpreadPlan) -> Sequence[tuple[Address, str]]:
    """Returns for each piece of a chunk its server and its name. Fewer where the ring has not as many servers."""
    return [*zip(ring.order_of(name, plan.pieces), piece_names(name, plan), strict=False)]
