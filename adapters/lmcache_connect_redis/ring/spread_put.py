"""`SpreadPut`: the spread chunks of one put. The pieces are sent to their servers first, and the index last.

Until all of them are there, pieces have a time to live. So what a killed writer leaves expires. The index puts the
chunk in its place, in one step: before it, the chunk that stood there is whole, and after it, the new one is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from lmcache_connect import StoreError
from lmcache_connect.record import SpreadPlan, encode_index
from lmcache_connect.streaming import ChunkBytes

from ..nodes.node import Node
from ..topology.placement import Address
from ..topology.ring import Ring
from ..way import Way
from .spread_chunk import SpreadChunk, SpreadPiece, pieces_by_server
from .spread_indexes import Plans, keep_names, put_indexes

T = TypeVar("T")

Sides = Callable[[Sequence[Callable[[], Awaitable[object]]]], Awaitable[list[StoreError | None]]]
"""Awaits calls side by side, each to its end. Returns for each what has failed."""


class SpreadPut:
    """The chunks of a put that are spread.

    Attributes:
        chunks: all of them.
        replaced: what the pieces of those chunks were that the put has replaced, where they were spread.
        sent: the names of the chunks whose index was sent. Nothing may be known of it.
        done: the slots of the chunks that are stored.
        are_kept: whether the servers let pieces be kept that were put with a time to live.
    """

    def __init__(self, ring: Ring, node: Callable[[Address], Node], operation: str, is_repeatable: bool) -> None:
        self._ring: Final = ring
        self._node: Final = node
        self._operation: Final = operation
        self._is_repeatable: Final = is_repeatable
        self.chunks: Final[list[SpreadChunk]] = []
        self.replaced: Final[Plans] = {}
        self.sent: Final[set[str]] = set()
        self.done: Final[set[int]] = set()
        self.are_kept = True

    def add(self, slot: int, name: str, obj: ChunkBytes, servers: int) -> None:
        """Adds the chunk of a slot, which is to be spread over so many servers."""
        self.chunks.append(SpreadChunk(slot, name, SpreadPlan.new(obj.get_size(), servers), obj))

    def unfinished(self) -> list[SpreadChunk]:
        """Returns the chunks that are not stored."""
        return [chunk for chunk in self.chunks if chunk.slot not in self.done]

    async def send_pieces(self, sides: Sides, *, expires: bool, is_kept: bool) -> None:
        """Sends the pieces. `failure` of a chunk then says why it is not complete.

        `expires`: they are put with a time to live. `is_kept`: it is taken from them when all pieces are there.
        """
        self.are_kept = True
        groups = pieces_by_server(self._ring, [chunk for chunk in self.chunks if chunk.failure is None])
        way = Way.PART if expires else Way.PLAIN
        sends = [partial(self._send_pieces, address, pieces, way) for address, pieces in groups.items()]
        for pieces, error in zip(groups.values(), await sides(sends), strict=True):
            _fail([piece.chunk for piece in pieces], error)
        if not (expires and is_kept):
            return
        complete = {
            address: left
            for address, pieces in groups.items()
            if (left := [piece for piece in pieces if piece.chunk.failure is None])
        }
        keeps = [partial(self._keep, address, pieces) for address, pieces in complete.items()]
        for pieces, error in zip(complete.values(), await sides(keeps), strict=True):
            _fail([piece.chunk for piece in pieces], error)

    async def send_indexes(self, sides: Sides, ttl_ms: int | None) -> None:
        """Sends the indexes of the chunks that are complete, which puts those in their places.

        No memory of a caller is touched. So this is better ended than cancelled.
        """
        groups: dict[Address, list[SpreadChunk]] = {}
        for chunk in self.chunks:
            if chunk.failure is None:
                groups.setdefault(self._ring.address_of(chunk.name), []).append(chunk)
        sends = [partial(self._send_index, address, chunks, ttl_ms) for address, chunks in groups.items()]
        for chunks, error in zip(groups.values(), await sides(sends), strict=True):
            _fail(chunks, error)
            if error is None:
                self.done.update(chunk.slot for chunk in chunks)

    def fail(self, error: StoreError) -> None:
        """The put is late: what is not known to be stored has failed."""
        _fail(self.unfinished(), error)

    def failures(self) -> list[StoreError]:
        """Returns why chunks are not stored, and forgets it."""
        errors = [chunk.failure for chunk in self.chunks if chunk.failure is not None]
        for chunk in self.chunks:
            chunk.failure = None
        return errors

    async def _send_pieces(self, address: Address, pieces: Sequence[SpreadPiece], way: Way) -> None:
        node = self._node(address)
        names = [piece.name for piece in pieces]

        async def attempt() -> bool:
            parts = [piece.part() for piece in pieces]
            try:
                await node.connector.send(names, names, parts, way=way)
            finally:
                for part in parts:
                    part.ref_count_down()
            return True

        await node.call(self._operation, attempt, is_transfer=True, is_repeatable=self._is_repeatable)

    async def _send_index(self, address: Address, chunks: Sequence[SpreadChunk], ttl_ms: int | None) -> None:
        node = self._node(address)
        records = [(chunk.name, encode_index(chunk.name, chunk.obj.metadata, chunk.plan)) for chunk in chunks]
        own = {chunk.name: chunk.plan for chunk in chunks}

        async def attempt() -> None:
            self.sent.update(own)
            replaced = await node.connector.over_lookups(partial(put_indexes, indexes=records, ttl_ms=ttl_ms))
            # An attempt whose answer was lost is found by the next one.
            self.replaced.update((name, plan) for name, plan in replaced.items() if plan != own[name])

        await node.call(self._operation, attempt, is_repeatable=self._is_repeatable)

    async def _keep(self, address: Address, pieces: Sequence[SpreadPiece]) -> None:
        node = self._node(address)
        keep = partial(keep_names, names=[piece.name for piece in pieces])
        if not await node.call(self._operation, lambda: node.connector.over_lookups(keep)):
            self.are_kept = False


def _fail(chunks: Sequence[SpreadChunk], error: StoreError | None) -> None:
    if error is not None:
        for chunk in chunks:
            chunk.failure = chunk.failure or error
