"""`Stock`: what a store holds of every kind, and the right answer to each single call for it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

from lmcache_connect import LocalCPUBackend, ManagedConnector, MemoryObj
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import StampedValue

KIB: Final = 1 << 10
MIB: Final = 1 << 20

SMALL: Final = (*[4 * KIB] * 12, *[64 * KIB] * 8, *[300 * KIB] * 4)
WHOLE: Final = (*[MIB] * 3, 4 * MIB - 1)
STRIPED: Final = (5 * MIB, 8 * MIB + 1)
LARGEST: Final = (32 * MIB,)

_PLACE: Final = 2 * KIB
"""Where a record is damaged: in its payload, which every chunk here is long enough for."""


class Kind(Enum):
    """What stands under a key."""

    CHUNK = "chunk"
    MISSING = "missing"
    DAMAGED = "damaged"
    EMPTY = "empty"
    """A string of 0 bytes, which is not a record."""
    LIST = "list"
    """A key of another type."""


@dataclass(frozen=True, slots=True)
class Item:
    """One key of the stock. `version` is that of its value, where it has one."""

    key: str
    kind: Kind
    nbytes: int = 0
    version: int = 0

    async def check_get(self, found: MemoryObj | None) -> None:
        """Releases what a get has found. Raises AssertionError where that is not the item's own."""
        if found is None:
            assert self.kind is not Kind.CHUNK, f"{self.key} was not found"
            return
        with found:
            assert self.kind is Kind.CHUNK, f"{self.key}, which is {self.kind.value}, was found"
            value = await StampedValue.read(self.key, found.byte_array)
        assert (value.version, value.nbytes) == (self.version, self.nbytes), self.key

    def check_exists(self, found: bool) -> None:
        """Raises AssertionError where `found` is not what an `exists` has to answer."""
        assert found is (self.kind is not Kind.MISSING), f"{self.key}, which is {self.kind.value}: exists is {found}"


class Stock:
    """The items of one store. `fill` stores them."""

    def __init__(self, sizes: tuple[int, ...], damaged: tuple[int, ...] = (4 * KIB, 64 * KIB, 5 * MIB)) -> None:
        """`sizes` are those of the chunks, `damaged` those of the chunks of which a byte is changed."""
        self.chunks: Final = [
            Item(f"chunk-{n}-{nbytes}", Kind.CHUNK, nbytes, version=n + 1) for n, nbytes in enumerate(sizes)
        ]
        self.damaged: Final = [Item(f"damaged-{nbytes}", Kind.DAMAGED, nbytes) for nbytes in damaged]
        self.others: Final = [
            *[Item(f"missing-{n}", Kind.MISSING) for n in range(4)],
            *[Item(f"empty-{n}", Kind.EMPTY) for n in range(2)],
            *[Item(f"list-{n}", Kind.LIST) for n in range(2)],
        ]

    @property
    def items(self) -> list[Item]:
        """All of them."""
        return [*self.chunks, *self.damaged, *self.others]

    async def fill(self, connector: ManagedConnector, client: Any) -> Self:
        """Stores every item. `client` is the server's own client, for what the connector would not store."""
        backend = connector.context.local_cpu_backend
        assert isinstance(backend, LocalCPUBackend)
        for item in (*self.chunks, *self.damaged):
            with await new_chunk(backend, item.key, item.version, item.nbytes) as obj:
                await connector.put(item.key, obj)
        for item in self.damaged:
            damage(client, item.key)
        for item in self.others:
            [name] = chunk_names("", [item.key])
            if item.kind is Kind.EMPTY:
                client.set(name, b"")
            elif item.kind is Kind.LIST:
                client.rpush(name, b"another program's")
        return self

    def any_to_get(self, rng: random.Random) -> Item:
        """An item that may be asked for with `get`."""
        return rng.choice(self.chunks if rng.random() < 0.8 else [*self.others, *self.damaged])

    def any_to_look_up(self, rng: random.Random) -> Item:
        """An item that may be asked for with `exists`: not a damaged one, which a get may have removed."""
        return rng.choice([*self.chunks, *self.others])


def damage(client: Any, key: str) -> None:
    """Changes one byte of a stored chunk's payload; of a striped one's second piece."""
    [name] = chunk_names("", [key])
    if client.type(name) == b"hash":
        piece = bytearray(client.hget(name, "1"))
        piece[_PLACE] ^= 1
        client.hset(name, "1", bytes(piece))
    else:
        [byte] = client.getrange(name, _PLACE, _PLACE)
        client.setrange(name, _PLACE, bytes([byte ^ 1]))


async def new_chunk(backend: LocalCPUBackend, key: str, version: int, nbytes: int) -> MemoryObj:
    """A chunk that says of which key and version it is. Waits for room."""
    obj = await backend.allocate_async((nbytes,), "uint8", timeout=60)
    await StampedValue.new(key, 1, version, nbytes).fill(obj.byte_array)
    return obj
