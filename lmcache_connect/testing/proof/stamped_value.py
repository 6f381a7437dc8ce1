"""`StampedValue`: a chunk that says who wrote it, for which key, and when. So whatever comes back can be judged.

A value is a row of blocks. Each begins with a stamp: the key's digest, the writer, the version, the size, the time and
the block's own number. The rest of a block is random, and the same in all blocks of one value. So another key's bytes,
pieces of two values, blocks in the wrong place and single wrong bits are all found.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import struct
import time
from dataclasses import dataclass
from typing import ClassVar, Final

_BLOCK: Final = 64 << 10
_LEAST: Final = 1 << 10
_AT_ONCE: Final = 16

_STAMP: Final = struct.Struct("<8s16sQQQqQ")
_MAGIC: Final = b"STORM\r\n\x00"


class WrongValueError(AssertionError):
    """What came back is not one whole value of its key, or memory is not as it must be. The text says what is wrong."""


@dataclass(frozen=True, slots=True)
class StampedValue:
    """One value of a key.

        value = StampedValue.new("prompt-1", writer=7, version=1, nbytes=chunk.get_size())
        await value.fill(chunk.byte_array)
        ...
        found = await StampedValue.read("prompt-1", chunk.byte_array)
        assert found.version == 1

    Attributes:
        key: the key that it was made for.
        writer: a number of up to 64 bits that stands for the one who made it.
        version: counts the values of a key.
        nbytes: its size in bytes, at least `LEAST_BYTES`.
        written: the machine's monotonic time in nanoseconds, when it was made.
    """

    BLOCK: ClassVar[int] = _BLOCK
    """The size of a block in bytes. Each block has a stamp."""

    LEAST_BYTES: ClassVar[int] = _LEAST
    """The smallest value in bytes."""

    key: str
    writer: int
    version: int
    nbytes: int
    written: int

    @classmethod
    def new(cls, key: str, writer: int, version: int, nbytes: int) -> StampedValue:
        """A value that is made now."""
        return cls(key, writer, version, nbytes, time.monotonic_ns())

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return (time.monotonic_ns() - self.written) / 1e9

    async def fill(self, view: memoryview) -> None:
        """Writes the value's bytes into `view`, which has its size. Leaves the event loop to others now and then."""
        body = self._body()
        for index, start in enumerate(range(0, self.nbytes, _BLOCK)):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            end = min(start + _BLOCK, self.nbytes)
            view[start:end] = (self._stamp(index) + body)[: end - start]

    @classmethod
    async def read(cls, key: str, view: memoryview) -> StampedValue:
        """The value that `view` holds, which is whole and one of `key`.

        Raises:
            WrongValueError: it is not. The text says what is wrong.
        """
        if len(view) < _LEAST:
            raise WrongValueError(f"{len(view)} bytes, which nobody wrote")
        magic, digest, writer, version, nbytes, written, index = _STAMP.unpack_from(view)
        if magic != _MAGIC:
            raise WrongValueError(f"not a value: it begins with {bytes(view[:16])!r}")
        if digest != _digest(key):
            raise WrongValueError(f"another key's value, of writer {writer:x}, version {version}")
        value = cls(key, writer, version, nbytes, written)
        if nbytes != len(view) or index:
            raise WrongValueError(f"{len(view)} bytes that begin with block {index} of a value of {nbytes} bytes")
        body = value._body()
        for block, start in enumerate(range(0, nbytes, _BLOCK)):
            if block % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            end = min(start + _BLOCK, nbytes)
            if bytes(view[start:end]) != (value._stamp(block) + body)[: end - start]:
                raise WrongValueError(f"torn or damaged in block {block}: {value._other(view, start)}")
        return value

    @staticmethod
    def random_size(rng: random.Random, largest: int) -> int:
        """A chunk's size in bytes, from 1 KiB to `largest`: mostly small, often at a border of the layout."""
        kind = rng.random()
        if kind < 0.55:
            size = int(_LEAST * 1024 ** rng.random())
        elif kind < 0.75:
            size = int((1 << 20) * 8 ** rng.random())
        elif kind < 0.9:
            size = rng.choice((1 << 20, 4 << 20, 5 << 20, 8 << 20)) + rng.choice((-1, 0, 1))
        else:
            size = rng.randint(8 << 20, 40 << 20)
        return max(_LEAST, min(size, largest))

    def _other(self, view: memoryview, start: int) -> str:
        """What stands at `start` instead, in words."""
        if len(view) - start < _STAMP.size:
            return "the bytes differ"
        magic, _, writer, version, _, _, index = _STAMP.unpack_from(view, start)
        if magic != _MAGIC:
            return "no stamp"
        found = f"writer {writer:x}, version {version}, block {index}"
        return f"found {found}; expected writer {self.writer:x}, version {self.version}"

    def _stamp(self, index: int) -> bytes:
        return _STAMP.pack(_MAGIC, _digest(self.key), self.writer, self.version, self.nbytes, self.written, index)

    def _body(self) -> bytes:
        return random.Random(self.writer << 64 | self.version).randbytes(_BLOCK - _STAMP.size)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16).digest()
