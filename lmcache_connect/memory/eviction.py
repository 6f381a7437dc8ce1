"""Policies that decide which cached chunk is evicted first. They are told what happens, and touch no chunk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from ..errors import InvalidArgumentError


class EvictionPolicy(ABC):
    """Keep keys in the order in which they may be evicted. A key is known from `insert` until `remove`.

    A key whose chunk is in use is set aside, so that nobody looks at it again before it is put back.
    """

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
    def set_aside(self, key: str) -> None:
        """Takes a known key out of the candidates until `put_back`."""

    @abstractmethod
    def put_back(self, key: str) -> None:
        """Makes a key that was set aside a candidate: where its last use, which ends now, puts it.

        A policy that does not go by the time of the last use puts it in front: it was in use when its turn came.
        """

    @abstractmethod
    def candidates(self) -> Iterator[str]:
        """The known keys, the first to evict first, without those set aside.

        No other method may be called during the iteration.
        """


class FIFOPolicy(EvictionPolicy):
    """First in, first out. Use does not count."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, None] = OrderedDict()

    def insert(self, key: str) -> None:
        self._keys[key] = None

    def hit(self, key: str) -> None:
        pass

    def remove(self, key: str) -> None:
        self._keys.pop(key, None)  # it may have been set aside

    def set_aside(self, key: str) -> None:
        del self._keys[key]

    def put_back(self, key: str) -> None:
        self._keys[key] = None
        self._keys.move_to_end(key, last=False)

    def candidates(self) -> Iterator[str]:
        return iter(self._keys)


class LRUPolicy(FIFOPolicy):
    """Least recently used first."""

    def hit(self, key: str) -> None:
        if key in self._keys:
            self._keys.move_to_end(key)

    def put_back(self, key: str) -> None:
        self._keys[key] = None


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
        self._uses[key] = 1
        self._place(key)

    def hit(self, key: str) -> None:
        is_candidate = self._take(key)
        self._uses[key] += 1
        if is_candidate:
            self._place(key)

    def remove(self, key: str) -> None:
        self._take(key)
        del self._uses[key]

    def set_aside(self, key: str) -> None:
        self._take(key)

    def put_back(self, key: str) -> None:
        self._place(key)
        self._keys_by_uses[self._uses[key]].move_to_end(key, last=False)

    def candidates(self) -> Iterator[str]:
        for uses in sorted(self._keys_by_uses):
            yield from self._keys_by_uses[uses]

    def _place(self, key: str) -> None:
        self._keys_by_uses.setdefault(self._uses[key], OrderedDict())[key] = None

    def _take(self, key: str) -> bool:
        """Takes it out of the candidates. Returns False where it was set aside."""
        uses = self._uses[key]
        keys = self._keys_by_uses.get(uses)
        if keys is None or key not in keys:
            return False
        del keys[key]
        if not keys:
            del self._keys_by_uses[uses]
        return True


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
