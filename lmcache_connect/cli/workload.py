"""What the demo stores: kinds of chunks, their keys, and bytes that tell which key they belong to."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ..errors import ArenaExhaustedError
from ..keys import CacheEngineKey
from ..memory import LocalCPUBackend, MemoryObj
from ..metadata import CacheMetadata, ChunkMetadata

T = TypeVar("T")

BATCH_BYTES: Final = 256 << 20
"""Payload of one batch at most: it bounds the memory, however many chunks there are."""

_PIECE_BYTES: Final = 64 << 10
"""Long enough to be copied fast, short enough to stay in the CPU's cache."""

_STAMP_BYTES: Final = 8
_SCRUB: Final = b"\xa5" * _PIECE_BYTES


@dataclass(frozen=True)
class ChunkKind:
    """`count` chunks of the same shapes, dtypes and format."""

    name: str
    chunk: ChunkMetadata
    count: int

    @property
    def batch_size(self) -> int:
        """Chunks in one batch: as many as fit `BATCH_BYTES`, at least one."""
        return max(1, min(self.count, BATCH_BYTES // self.chunk.nbytes))

    def batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """`items` in runs of `batch_size`."""
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]


@dataclass(frozen=True)
class Workload:
    """Kinds of chunks, the model whose chunks they are, and how often each is put and got.

    `seed` decides every byte and every chunk's hash. `model_name` keeps one run's keys apart from all others.
    """

    model_name: str
    kinds: tuple[ChunkKind, ...]
    metadata: CacheMetadata
    seed: int = 0
    rounds: int = 3

    @classmethod
    def llama(cls, model_name: str, *, chunks: int = 8, layers: int = 32, seed: int = 0) -> Workload:
        """Chunks of Llama-3.1-8B, whose 32 `layers` make 2 x 32 x 256 tokens x 1024 x bfloat16 = 32 MiB, and others.

        `chunks` is the number of full chunks; the number of the others follows from it.
        """

        def model(layers: int, tokens: int = 256, groups: tuple[tuple[int, int, str], ...] = ()) -> CacheMetadata:
            shape = (layers, 2, tokens, 8, 128)
            return CacheMetadata(model_name, 1, 0, "bfloat16", shape, chunk_size=tokens, groups=groups)

        full = model(layers)
        half = max(1, chunks // 2)
        kinds = (
            ChunkKind("full, 256 tokens", full.chunk(), chunks),
            ChunkKind("partial, 100 tokens", full.chunk(100), half),
            ChunkKind("two tensor groups", model(1, groups=_two_groups(layers)).chunk(), half),
            ChunkKind("4 layers", model(4).chunk(), chunks),
            ChunkKind("1 layer, 32 tokens", model(1, tokens=32).chunk(), 8 * chunks),
        )
        return cls(model_name, kinds, full, seed)

    @property
    def arena_bytes(self) -> int:
        """Memory that the demo needs: one batch and one chunk, each chunk rounded up to whole pages."""
        return max((kind.batch_size + 1) * (kind.chunk.nbytes + 4096) for kind in self.kinds)

    @property
    def transfer_bytes(self) -> int:
        """Bytes that the demo puts and gets: each chunk once by itself, and in every round thrice."""
        return sum(kind.count * kind.chunk.nbytes for kind in self.kinds) * (1 + 3 * self.rounds)

    def key(self, kind: ChunkKind, index: int | str) -> CacheEngineKey:
        """The name of one chunk of a kind; an `index` that is no number names a chunk that is never written."""
        chunk_hash = random.Random(f"{self.seed}/{kind.name}/{index}").getrandbits(64)
        return CacheEngineKey(self.model_name, 1, 0, chunk_hash, kind.chunk.dtypes[0])

    def pattern(self, key: CacheEngineKey, generation: int) -> Pattern:
        """The bytes of a key's chunk, each time it is put: a put that did not replace the one before it shows."""
        return Pattern(f"{self.seed}/{key.chunk_hash_hex}/{generation}")


class Pattern:
    """Pseudo-random bytes that differ from seed to seed and from place to place, so that every mix-up shows."""

    def __init__(self, seed: str) -> None:
        self._piece = bytearray(random.Random(seed).randbytes(_PIECE_BYTES))

    def fill(self, view: memoryview) -> None:
        """Writes the pattern over the whole of `view`."""
        for start, piece in self._pieces(len(view)):
            view[start : start + len(piece)] = piece

    def difference(self, view: memoryview) -> int | None:
        """The first byte of `view` that is not the pattern's, or None where every one is."""
        for start, piece in self._pieces(len(view)):
            # bytes against bytearray is a memcmp; comparing memoryviews goes byte by byte.
            found = view[start : start + len(piece)].tobytes()
            if found != piece:
                return start + next(
                    at for at, (one, other) in enumerate(zip(found, piece, strict=True)) if one != other
                )
        return None

    def _pieces(self, nbytes: int) -> Iterator[tuple[int, bytearray]]:
        piece = self._piece
        for number, start in enumerate(range(0, nbytes, _PIECE_BYTES)):
            piece[:_STAMP_BYTES] = piece[-_STAMP_BYTES:] = number.to_bytes(_STAMP_BYTES, "little")
            yield start, piece if nbytes - start >= _PIECE_BYTES else piece[: nbytes - start]


def allocate(backend: LocalCPUBackend, chunk: ChunkMetadata) -> MemoryObj:
    """An object for a chunk.

    Raises:
        ArenaExhaustedError: there is no room, which means that somebody held on to memory.
    """
    obj = backend.allocate(list(chunk.shapes), list(chunk.dtypes), chunk.fmt)
    if obj is None:
        now = backend.statistics()
        raise ArenaExhaustedError(chunk.nbytes, now.free, now.capacity)
    return obj


def scrub(backend: LocalCPUBackend) -> None:
    """Overwrites all free memory, so that what a get leaves unwritten cannot pass for what it should have written."""
    held: list[MemoryObj] = []
    while (room := backend.statistics().largest_free) and (obj := backend.allocate((room,), "uint8")) is not None:
        held.append(obj)
        view = obj.byte_array
        for start in range(0, room, _PIECE_BYTES):
            view[start : start + _PIECE_BYTES] = _SCRUB[: room - start]
        del view
    for obj in held:
        obj.ref_count_down()


def new_model_name() -> str:
    """A model name that no other run has: in the keys, it keeps this run's from everybody else's."""
    return f"lmcache-connect-demo-{secrets.token_hex(8)}"


def _two_groups(layers: int) -> tuple[tuple[int, int, str], ...]:
    # As a model has it whose sliding-window layers keep a smaller cache, in another dtype, than its others.
    half = max(1, layers // 2)
    return (half, 512, "bfloat16"), (half, 512, "fp8_e4m3fn")
