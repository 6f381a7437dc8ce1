"""The chunks that the demo stores: their kinds, their keys, and bytes that identify the key that they belong to."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ...errors import ArenaExhaustedError
from ...keys import CacheEngineKey
from ...memory import LocalCPUBackend, MemoryObj
from ...metadata import CacheMetadata, ChunkMetadata

T = TypeVar("T")

BATCH_BYTES: Final = 256 << 20
"""The most payload bytes in one batch. It bounds the memory for any number of chunks."""

_PIECE_BYTES: Final = 64 << 10
"""Long enough to copy fast, short enough for the CPU's cache."""

_STAMP_BYTES: Final = 8
_SCRUB: Final = b"\xa5" * _PIECE_BYTES


@dataclass(frozen=True)
class ChunkKind:
    """`count` chunks with equal shapes, dtypes and format."""

    name: str
    chunk: ChunkMetadata
    count: int

    @property
    def batch_size(self) -> int:
        """The number of chunks in one batch: as many as fit into `BATCH_BYTES`, and at least one."""
        return max(1, min(self.count, BATCH_BYTES // self.chunk.nbytes))

    def batches(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """`items` in runs of `batch_size`."""
        for start in range(0, len(items), self.batch_size):
            yield items[start : start + self.batch_size]


@dataclass(frozen=True)
class Workload:
    """Kinds of chunks, their model, and the number of rounds of puts and gets.

    `seed` determines every byte and every chunk's hash. `model_name` keeps the keys of one run apart from all others.
    """

    model_name: str
    kinds: tuple[ChunkKind, ...]
    metadata: CacheMetadata
    seed: int = 0
    rounds: int = 3

    @classmethod
    def llama(cls, model_name: str, *, chunks: int = 8, layers: int = 32, seed: int = 0) -> Workload:
        """Five kinds of chunks of Llama-3.1-8B. A full one has 1 MiB for each of the `layers`.

        `chunks` is the number of full chunks. The number of the other kinds follows from it.
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
        """The memory that the demo needs: one batch and one chunk, each chunk rounded up to whole pages."""
        return max((kind.batch_size + 1) * (kind.chunk.nbytes + 4096) for kind in self.kinds)

    @property
    def transfer_bytes(self) -> int:
        """The bytes that the demo puts and gets: each chunk once alone, and three times in every round."""
        return sum(kind.count * kind.chunk.nbytes for kind in self.kinds) * (1 + 3 * self.rounds)

    def stored_bytes(self, keep: bool) -> int:
        """The most bytes that lie in the store at a time: those of the largest kind, or with `keep` of all."""
        each = [kind.count * kind.chunk.nbytes for kind in self.kinds]
        return sum(each) if keep else max(each)

    def key(self, kind: ChunkKind, index: int | str) -> CacheEngineKey:
        """The key of one chunk of a kind. A string as `index` names a chunk that is never written."""
        chunk_hash = random.Random(f"{self.seed}/{kind.name}/{index}").getrandbits(64)
        return CacheEngineKey(self.model_name, 1, 0, chunk_hash, kind.chunk.dtypes[0])

    def pattern(self, key: CacheEngineKey, generation: int) -> Pattern:
        """The bytes of a key's chunk. They differ for each generation, so that a put without effect is found."""
        return Pattern(f"{self.seed}/{key.chunk_hash_hex}/{generation}")


class Pattern:
    """Pseudo-random bytes that depend on the seed and on the position, so that every mix-up is found."""

    def __init__(self, seed: str) -> None:
        self._piece = bytearray(random.Random(seed).randbytes(_PIECE_BYTES))

    def fill(self, view: memoryview) -> None:
        """Fills `view` with the pattern."""
        for start, piece in self._pieces(len(view)):
            view[start : start + len(piece)] = piece

    def difference(self, view: memoryview) -> int | None:
        """The index of the first byte of `view` that differs from the pattern; None where all are equal."""
        for start, piece in self._pieces(len(view)):
            # Comparing bytes with a bytearray is one memcmp. Comparing memoryviews goes byte by byte.
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
    """A memory object for a chunk.

    Raises:
        ArenaExhaustedError: there is no room, so memory that should be free was not released.
    """
    obj = backend.allocate(list(chunk.shapes), list(chunk.dtypes), chunk.fmt)
    if obj is None:
        now = backend.statistics()
        raise ArenaExhaustedError(chunk.nbytes, now.free, now.capacity)
    return obj


def scrub(backend: LocalCPUBackend) -> None:
    """Overwrites all free memory, so that bytes which a get does not write cannot be right by accident."""
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
    """A random model name. It keeps the keys of this run apart from all others."""
    return f"lmcache-connect-demo-{secrets.token_hex(8)}"


def _two_groups(layers: int) -> tuple[tuple[int, int, str], ...]:
    # Like a model whose sliding-window layers have a smaller cache, in another dtype, than its other layers.
    half = max(1, layers // 2)
    return (half, 512, "bfloat16"), (half, 512, "fp8_e4m3fn")
