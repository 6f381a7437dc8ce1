"""`Changes`: a put or a removal that is under way, as the hot cache sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lmcache_connect.contract import Slots
from lmcache_connect.memory import HotCache, release_all

from .known_expiries import KnownExpiries


class Changes:
    """Keeps what was read before the end of a change out of the cache: `with Changes(...) as change:`.

    Keys are invalidated when the change begins and again when it ends, however it ends. Only after `stored`, and if
    nothing else has changed the key meanwhile, the cache then holds what was put.
    """

    def __init__(self, cache: HotCache, expiries: KnownExpiries, names: Sequence[str]) -> None:
        self._cache: Final = cache
        self._expiries: Final = expiries
        self._names: Final = names
        self._copies: Slots | None = None

    def __enter__(self) -> Changes:
        self._began = self._expiries.now()
        for name in self._names:
            self._expiries.forget(name)
            self._cache.remove(name)
        self._fillings = [self._cache.begin(name) for name in self._names]
        return self

    def stored(self, copies: Slots) -> None:
        """The store has acknowledged the change. `copies` are what it stores, one per key, or None.

        Takes over one reference of each.
        """
        self._copies = copies

    def __exit__(self, *_: object) -> None:
        copies = self._copies if self._copies is not None else [None] * len(self._names)
        for name, filling, copy in zip(self._names, self._fillings, copies, strict=True):
            if self._copies is not None:
                self._expiries.put(name, self._began)
            self._cache.replace(filling, copy, self._expiries.ttl)
        release_all(copies)
