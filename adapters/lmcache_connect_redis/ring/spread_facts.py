"""What is known of a spread chunk: the facts of its index, with those of its pieces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from lmcache_connect.contract import KeyFacts, PartSum
from lmcache_connect.record import SpreadPlan

INDEX_MEMORY: Final = 16 << 10
"""The most bytes that an index takes in a server's memory. Nothing longer is one."""


def with_pieces(
    index: KeyFacts, plan: SpreadPlan, names: Sequence[str], found: Mapping[str, KeyFacts | None]
) -> KeyFacts:
    """Returns the facts of a spread chunk. `names` are those of its pieces; `found` has what their servers say."""
    pieces = [found.get(name) for name in names]
    missing = tuple(at for at in range(plan.pieces) if at >= len(pieces) or pieces[at] is None)
    problems = [index.problem] if index.problem else []
    sums: list[PartSum] = []
    times = [] if index.ttl is None else [index.ttl]
    stored = index.stored_bytes or 0
    servers: list[str] = []
    for at, piece in enumerate(pieces):
        if piece is None:
            continue
        start, end = plan.bounds(at)
        if piece.problem:
            problems.append(f"piece {at}: {piece.problem}")
        elif piece.missing:
            problems.append(f"piece {at}: parts of it are missing")
        elif piece.nbytes is not None and piece.nbytes != end - start:
            problems.append(f"piece {at}: {piece.nbytes} bytes; expected {end - start}")
        sums += [PartSum(start + part.start, start + part.end, part.xxh3) for part in piece.sums]
        stored += piece.stored_bytes or 0
        times += [] if piece.ttl is None else [piece.ttl]
        servers.append(piece.server)
    is_summed = all(piece is not None and piece.sums for piece in pieces) and len(pieces) == plan.pieces
    return replace(
        index,
        stored_bytes=stored,
        ttl=min(times, default=None),
        pieces=plan.pieces,
        missing=missing,
        server=", ".join(dict.fromkeys([index.server, *servers])),
        sums=tuple(sums) if is_summed else (),
        problem="; ".join(problems),
    )
