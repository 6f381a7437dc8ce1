"""Which cached chunk goes first. Policies are pure: they are told what happens and answer in what order to evict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from ..errors import InvalidArgumentError


class EvictionPolicy(ABC):
    """Keys in the order in which they may be evicted. Every key told to `insert` is known until `remove`."""

    @abstractmethod
    def insert(self, key: str) -> None:
        """A key came in; it was not known before."""

    @abstractmethod
    def hit(self, key: str) -> None:
        """A known key was used."""

    @abstractmethod
    def remove(self, key: str) -> None:
        """A known key is gone."""

    @abstractmethod
    def candidates(self) -> Iterator[str]:
        """Known keys, the first to evict first. The policy must not be told anything while this is iterated."""


class FIFOPolicy(EvictionPolicy):
    """First in, first out: use does not matter."""

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
    """Most recently used first: right for a cyclic scan over more than fits."""

    def candidates(self) -> Iterator[str]:
        return reversed(self._keys)


class LFUPolicy(EvictionPolicy):
    """Least frequently used first, and among equals the least recently used."""

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
    """A new policy by its name, in any case.

    Raises:
        InvalidArgumentError: naming the known policies.
    """
    policy = _POLICIES.get(name.upper()) if isinstance(name, str) else None
    if policy is None:
        raise InvalidArgumentError("eviction", f"{name!r} is not one of {', '.join(_POLICIES)}")
    return policy()
