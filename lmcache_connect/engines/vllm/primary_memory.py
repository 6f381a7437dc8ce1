"""`PrimaryMemory`: vLLM's primary tier, as one view of bytes for each chunk."""

from __future__ import annotations

from typing import Final

from ...errors import InvalidArgumentError

_DIMENSIONS: Final = 2


class PrimaryMemory:
    """The memory that vLLM's primary tier owns: rows of `chunk_nbytes` bytes, one row a chunk.

    vLLM frees it after `Tier.shutdown()`, which calls `release()` first. No view of it may be in use then.
    """

    def __init__(self, view: memoryview) -> None:
        """`view` is what vLLM gives to a tier: two dimensions, chunks by bytes.

        Raises:
            InvalidArgumentError: it is read-only, it has gaps, or it does not have two dimensions.
        """
        if view.ndim != _DIMENSIONS:
            raise InvalidArgumentError(
                "primary_kv_view", f"it has {view.ndim} dimension(s); expected 2: chunks by the bytes of a chunk"
            )
        if view.readonly:
            raise InvalidArgumentError("primary_kv_view", "it is read-only; expected memory that loads may write into")
        if not view.c_contiguous:
            raise InvalidArgumentError("primary_kv_view", "it is not contiguous; expected rows that follow each other")
        self.chunks: Final[int] = view.shape[0] if view.shape else 0
        """The number of chunks."""
        self.chunk_nbytes: Final[int] = view.nbytes // self.chunks if self.chunks else 0
        """The bytes of a chunk."""
        self._bytes = view.cast("B") if view.nbytes else memoryview(bytearray())

    def row(self, chunk: int) -> memoryview:
        """Returns a writable view of one chunk's bytes. It is valid until vLLM has had its answer for the chunk.

        Raises:
            InvalidArgumentError: there is no such chunk.
        """
        if not 0 <= chunk < self.chunks:
            raise InvalidArgumentError("chunk_ids", f"{chunk} is not one of the {self.chunks} chunks, counted from 0")
        start = chunk * self.chunk_nbytes
        return self._bytes[start : start + self.chunk_nbytes]

    def release(self) -> None:
        """Lets the memory go. Views of rows must be gone by then."""
        self._bytes.release()
