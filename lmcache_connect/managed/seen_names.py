"""`SeenNames`: which names a scan has given, in a few bytes each."""

from __future__ import annotations

from array import array
from typing import Final

_TABLES: Final = 1 << 10
_HASH_BITS: Final = 64
_FIRST_SIZE: Final = 16


class SeenNames:
    """A set of names that are told apart by their 64-bit hash.

    A million names take 12 to 24 MB, where a set of strings takes 150. Among a million names, two have the same hash
    with a probability of 3 in 10^8, and the second of them counts as seen. Python's hash has another random key in each
    process, so that this would be another pair.
    """

    def __init__(self) -> None:
        self._tables: dict[int, _HashTable] = {}

    def add(self, name: str) -> bool:
        """Remembers `name`. Returns whether it is new."""
        value = hash(name) % (1 << _HASH_BITS)
        number = value % _TABLES
        table = self._tables.get(number)
        if table is None:
            table = self._tables[number] = _HashTable()
        return table.add(value or 1)


class _HashTable:
    """Open addressing: a hash stands at the first free place from its own on. 0 is a free place.

    One of many small tables, because one that is full is copied, and that must not hold up an event loop.
    """

    __slots__ = ("_count", "_places")

    def __init__(self) -> None:
        self._places = array("Q", bytes(8 * _FIRST_SIZE))
        self._count = 0

    def add(self, value: int) -> bool:
        places = self._places
        last = len(places) - 1
        place = (value // _TABLES) & last
        while there := places[place]:
            if there == value:
                return False
            place = (place + 1) & last
        places[place] = value
        self._count += 1
        if self._count * 3 > len(places) * 2:
            self._grow()
        return True

    def _grow(self) -> None:
        known, self._count = self._places, 0
        self._places = array("Q", bytes(16 * len(known)))
        for value in known:
            if value:
                self.add(value)
