"""Policies that decide which cached chunk is evicted first. They are told what happens, and touch no chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from ..errors import InvalidArgumentError


class EvictionPolicy(ABC):
    """Keep keys in the order in which they may be evicted. A key is known from `insert` until `remove`."""

    @abstractmethod
    def insert(self, key: str) -> None:
        """Called when a key comes in that is not known."""

    @abstractmethod
    def hit(self, key: str) -> None:
        """Called when a known key is used."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """Called when a known key is gone."""

    @abstractmethod
    def candidates(self) -> Iterator[str]:
        """The known keys, the first to evict first. No other method may be called during the iteration."""


class FIFOPolicy(EvictionPolicy):
    """First in, first out. Use does not count."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, None] = OrderedDict()

    def insert(self, key: str) -> None:
        self._keys[key] = None

    def hit(self, key: str) -> None:
        pass

    def remove(self, key: str) -> None:
        del self._keys[key]

    def candidates(self) -> Iterator[str]:
        return iter(self._keys)


class LRUPolicy(FIFOPolicy):
    """Least recently used first."""

    def hit(self, key: str) -> None:
        self._keys.move_to_end(key)


class MRUPolicy(LRUPolicy):
    """Most recently used first. Suits a scan in cycles over more chunks than fit."""

    def candidates(self) -> Iterator[str]:
        return reversed(self._keys)


class LFUPolicy(EvictionPolicy):
    """Least frequently used first. Among equals, least recently used first."""

    def __init__(self) -> None:
        self._uses: dict[str, int] = {}
        self._keys_by_uses: dict[int, OrderedDict[str, None]] = {}

    def insert(self, key: str) -> None:
        self._place(key, 1)

    def hit(self, key: str) -> None:
        self._take(key)
        self._place(key, self._uses[key] + 1)

    def remove(self, key: str) -> None:
        self._take(key)
        del self._uses[key]

    def candidates(self) -> Iterator[str]:
        for uses in sorted(self._keys_by_uses):
            yield from self._keys_by_uses[uses]

    def _place(self, key: str, uses: int) -> None:
        self._uses[key] = uses
        self._keys_by_uses.setdefault(uses, OrderedDict())[key] = None

    def _take(self, key: str) -> None:
        uses = self._uses[key]
        keys = self._keys_by_uses[uses]
        del keys[key]
        if not keys:
            del self._keys_by_uses[uses]


_POLICIES: Final[dict[str, type[EvictionPolicy]]] = {
    "LRU": LRUPolicy,
    "LFU": LFUPolicy,
    "FIFO": FIFOPolicy,
    "MRU": MRUPolicy,
}


def eviction_policy(name: str) -> EvictionPolicy:
    """A new policy, by its name in upper or lower case.

    Raises:
        InvalidArgumentError: there is no such policy; the message names those that there are.
    """
    policy = _POLICIES.get(name.upper()) if isinstance(name, str) else None
    if policy is None:
        raise InvalidArgumentError("eviction", f"{name!r} is not one of {', '.join(_POLICIES)}")
    return policy()
