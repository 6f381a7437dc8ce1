"""The clients that the benchmarks compare, each behind the same small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .connect import Connect, ConnectUnchecked, Plain
from .contender import Contender, MissingContenderError
from .coredis import Coredis
from .glide import Glide
from .lmcache import LMCacheRedis, LMCacheRESP

__all__ = ["ALL", "Contender", "MissingContenderError", "contenders"]

ALL: Final[tuple[type[Contender], ...]] = (
    Connect,
    ConnectUnchecked,
    Plain,
    Glide,
    Coredis,
    LMCacheRedis,
    LMCacheRESP,
)
"""In the order of the table."""


def contenders(parts_of_names: Sequence[str] | None) -> list[type[Contender]]:
    """Those whose name contains one of the parts; all of them for None."""
    if parts_of_names is None:
        return list(ALL)
    return [kind for kind in ALL if any(part.lower() in kind.name.lower() for part in parts_of_names)]
