"""Chunks whose bytes tell which key they belong to."""

from __future__ import annotations

import random

from lmcache_connect import ChunkMemory, MemoryObj


def payload(key: str, nbytes: int) -> bytes:
    """Bytes that no other key and no other place has."""
    block = random.Random(key).randbytes(min(nbytes, 1 << 16))
    return (block * (nbytes // len(block) + 1))[:nbytes]


def chunk(backend: ChunkMemory, key: str, nbytes: int) -> MemoryObj:
    """A chunk of `nbytes` bytes for `key`."""
    obj = backend.allocate((nbytes,), "uint8")
    assert obj is not None
    obj.byte_array[:] = payload(key, nbytes)
    return obj


def holds(obj: MemoryObj | None, key: str) -> bool:
    """Whether a chunk is the one of `key`; releases it."""
    if obj is None:
        return False
    with obj:
        return bytes(obj.byte_array) == payload(key, obj.get_size())
