"""`Ring`: several plain servers, and the share of the keys that each of them has, by rendezvous hashing."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b, shake_128
from typing import Final
from zlib import crc32

from lmcache_connect.url import HostPort

from .placement import Address, Placement

SLOTS: Final = 1 << 16
"""What keys are mapped to first. A slot lies on one server. So a key costs one hash, however many servers there are."""

_SCORE_BYTES: Final = 4


class Ring(Placement):
    """Every server has a score in every slot, and a slot lies on the server with the highest one.

    A score depends on the server's host and port, as they are written, and on nothing else. So the order of the servers
    does not matter. A server that is added takes slots from the others, and no slot moves between those.
    """

    def __init__(self, addresses: Sequence[Address]) -> None:
        self._addresses: Final = tuple(sorted(addresses))
        self._owners: Final = owners_of(self._addresses)

    @property
    def addresses(self) -> Sequence[Address]:
        return self._addresses

    def place(self, names: Sequence[str]) -> dict[Address, list[int]]:
        owners = self._owners
        groups: dict[int, list[int]] = {}
        for position, name in enumerate(names):
            owner = owners[crc32(name.encode()) >> 16]
            if owner in groups:
                groups[owner].append(position)
            else:
                groups[owner] = [position]
        return {self._addresses[owner]: positions for owner, positions in groups.items()}

    def address_of(self, name: str) -> Address:
        return self._addresses[self._owners[crc32(name.encode()) >> 16]]

    def order_of(self, name: str, count: int) -> list[Address]:
        """Returns `count` different servers for the pieces of a spread chunk: first the one that has the name.

        Every other one has a score for the name, and the highest follow. So a server that is added moves a piece of
        those chunks alone that it comes among the first of. There must be so many servers.
        """
        first = self.address_of(name)
        others = [address for address in self._addresses if address != first]
        others.sort(key=lambda address: _score_for(address, name), reverse=True)
        return [first, *others[: count - 1]]


@lru_cache(maxsize=16)
def owners_of(addresses: tuple[Address, ...]) -> array[int]:
    """Returns for each slot the position of its server in `addresses`, which are sorted.

    Of two servers with the same score, the one that comes first has the slot.
    """
    scores = map(_scores_of, addresses)
    return array("H", [in_slot.index(max(in_slot)) for in_slot in zip(*scores, strict=True)])


def _scores_of(address: Address) -> array[int]:
    """Returns a server's score in each slot: the words of a stream that its host and port give, little-endian."""
    host, port = address
    scores = array("I", shake_128(str(HostPort(host=host, port=port)).encode()).digest(_SCORE_BYTES * SLOTS))
    if sys.byteorder == "big":
        scores.byteswap()
    return scores


def _score_for(address: Address, name: str) -> bytes:
    host, port = address
    return blake2b(f"{HostPort(host=host, port=port)} {name}".encode(), digest_size=8).digest()
