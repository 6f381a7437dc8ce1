"""`CallerMemory`: the memory that a call is given by its caller: for each key the regions of a chunk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from ..errors import InvalidArgumentError
from ..keys import Key, check_batch
from ..memory import Regions, regions_of
from ..metadata import ChunkMetadata

Descriptions: TypeAlias = ChunkMetadata | Sequence[ChunkMetadata | None] | None
"""What chunks are: one description for all keys, or one per key, or None where nothing is said."""


@dataclass(frozen=True, slots=True)
class CallerMemory:
    """The arguments of a call with memory of its callers, checked. The end of `with` releases the memory.

    Attributes:
        keys: the keys, at most one call's.
        regions: for each key the memory of its chunk.
        descriptions: for each key what its chunk is, or None where the caller did not say.
    """

    keys: list[Key]
    regions: list[Regions]
    descriptions: list[ChunkMetadata | None]
    _made: list[Regions]

    @classmethod
    def of(
        cls,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        metadata: Descriptions,
        *,
        writable: bool,
        own: bool = False,
    ) -> CallerMemory:
        """Checks the arguments of `batched_get_into` (`writable`) or `batched_put_from`.

        Where they are to be received into, none of the regions counts as filled any more. `own`: regions of the caller
        are taken as regions of this call's own, which no other call has.

        Raises:
            InvalidArgumentError: numbers of items differ; or `regions_of` does not take a buffer; or a buffer has
                another number of bytes than its metadata.
        """
        check_batch(keys)
        wanted = list(keys)
        given = _listed(buffers)
        if len(given) != len(wanted):
            raise InvalidArgumentError("buffers", f"{len(given)} chunks' memory for {len(wanted)} keys")
        descriptions = _described(metadata, len(wanted))
        made: list[Regions] = []
        try:
            regions: list[Regions] = []
            for index, (buffer, description) in enumerate(zip(given, descriptions, strict=True)):
                item = _regions_of(buffer, index, writable)
                if own and item is buffer:
                    item = Regions(item.views)
                elif writable:
                    item.is_filled = False  # what an earlier call has brought is not what this one is asked for
                regions.append(item)
                if item is not buffer:
                    made.append(item)
                if description is not None and description.nbytes != item.nbytes:
                    raise InvalidArgumentError(
                        "metadata",
                        f"{description.nbytes} bytes for the buffers of key {index}, which have {item.nbytes} bytes",
                    )
        except BaseException:
            for item in made:
                item.release()
            raise
        return cls(wanted, regions, descriptions, made)

    @property
    def nbytes(self) -> int:
        """The bytes of all chunks together."""
        return sum(item.nbytes for item in self.regions)

    def part(self, indices: Sequence[int]) -> CallerMemory:
        """The same memory for some of the keys. It ends with this one."""
        return CallerMemory(
            [self.keys[index] for index in indices],
            [self.regions[index] for index in indices],
            [self.descriptions[index] for index in indices],
            [],
        )

    def accepts(self, index: int, metadata: ChunkMetadata) -> bool:
        """Whether a chunk that the store describes so is the one that the caller of key `index` asked for."""
        expected = self.descriptions[index]
        return metadata.nbytes == self.regions[index].nbytes and (expected is None or metadata == expected)

    def stored_as(self, index: int) -> ChunkMetadata:
        """How the chunk of key `index` is stored: as its caller describes it, else as bytes (uint8)."""
        return self.descriptions[index] or bytes_metadata(self.regions[index].nbytes)

    def release(self) -> None:
        """Lets go of the callers' memory, except of what they passed as `Regions`. Idempotent."""
        for item in self._made:
            item.release()

    def __enter__(self) -> CallerMemory:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


@lru_cache
def bytes_metadata(nbytes: int) -> ChunkMetadata:
    """The metadata of a chunk of which nothing is known but its bytes: uint8, one dimension."""
    return ChunkMetadata.of((nbytes,), "uint8")


def _listed(buffers: Any) -> list[Any]:
    if isinstance(buffers, str | bytes | bytearray | memoryview | Regions) or not isinstance(buffers, Iterable):
        raise InvalidArgumentError(
            "buffers",
            f"a {type(buffers).__qualname__}; expected a sequence: for each key one buffer, or a sequence of them",
        )
    return list(buffers)


def _described(metadata: Descriptions, keys: int) -> list[ChunkMetadata | None]:
    if metadata is None or isinstance(metadata, ChunkMetadata):
        return [metadata] * keys
    given: Any = metadata  # by a caller that no type checker has seen
    described = list(given) if isinstance(given, Iterable) else [given]
    for item in described:
        if item is not None and not isinstance(item, ChunkMetadata):
            wrong = f"a {type(item).__qualname__}; expected a ChunkMetadata, one per key, or None"
            raise InvalidArgumentError("metadata", wrong)
    if len(described) != keys:
        raise InvalidArgumentError("metadata", f"{len(described)} descriptions for {keys} keys")
    return described


def _regions_of(buffer: Any, index: int, writable: bool) -> Regions:
    try:
        return regions_of(buffer, writable=writable)
    except InvalidArgumentError as error:
        raise InvalidArgumentError("buffers", f"of key {index}: {error.reason}") from None
