"""LMCache's memory objects as views of chunks in the arena. Needs LMCache and torch."""

from __future__ import annotations

import logging
from typing import Any, Final

import torch
from lmcache.v1 import memory_management

from ...errors import ReleasedObjectError
from ...memory import MemoryObj
from ...metadata import MemoryFormat
from ...observability import RepeatedEvent
from ..chunk_view import ChunkView

_RELEASED_TWICE: Final = RepeatedEvent("released_twice")
_FORGOTTEN: Final = RepeatedEvent("forgotten_object")


class _View(ChunkView):
    """What both kinds of views share. `original` is None once the last reference was released."""

    _memory: memoryview | None

    def _share(self, original: MemoryObj, is_borrowed: bool) -> None:
        self.original = original
        self.is_borrowed = is_borrowed
        self.chunk_metadata = original.metadata
        self._memory = original.byte_array
        self._references = 1

    def _end(self) -> None:
        original, self.original, self._memory = self.original, None, None
        self.raw_data: Any = None
        if original is not None and not self.is_borrowed and original.is_valid():
            original.ref_count_down()

    def _held(self) -> MemoryObj:
        if self.original is None:
            raise ReleasedObjectError("an LMCache memory object")
        return self.original

    def is_valid(self) -> bool:
        """Whether a reference of the view is held."""
        return self.original is not None

    def invalidate(self) -> None:
        """Ends the view, as releasing its last reference does."""
        self._end()

    def ref_count_up(self) -> None:
        """Takes one more reference of the view."""
        self._held()
        self._references += 1
        self.meta.ref_count = self._references

    def ref_count_down(self) -> None:
        """Releases one reference of the view. One too many is logged and does nothing, as in LMCache."""
        if self.original is None:
            _RELEASED_TWICE.tell(logging.WARNING, object=type(self).__name__)
            return
        self._references -= 1
        self.meta.ref_count = self._references
        if not self._references:
            self._end()

    def get_ref_count(self) -> int:
        """The number of references of the view."""
        return self._references

    def pin(self) -> bool:
        """Pins the original."""
        return self._held().pin()

    def unpin(self) -> bool:
        """Unpins the original."""
        return self._held().unpin()

    @property
    def is_pinned(self) -> bool:
        """Whether the original is pinned."""
        return self.original is not None and self.original.is_pinned

    @property
    def can_evict(self) -> bool:
        """False: no cache of LMCache's holds it."""
        return False

    def get_num_tokens(self) -> int:
        """Tokens in the chunk."""
        return self._held().get_num_tokens()

    def get_physical_size(self) -> int:
        """Bytes of the arena that the chunk takes up."""
        return self._held().get_physical_size()

    def parent(self) -> None:
        """None: the memory was not allocated by LMCache."""

    def __del__(self) -> None:
        if getattr(self, "original", None) is not None:
            if not self.is_borrowed:
                _FORGOTTEN.tell(logging.WARNING, bytes=len(self._memory or b""))
            self._end()


class TensorView(_View, memory_management.TensorMemoryObj):  # type: ignore[misc]
    """LMCache's object for a chunk of tensors."""

    def __init__(self, original: MemoryObj, *, is_borrowed: bool) -> None:
        metadata = original.metadata
        shapes = [torch.Size(shape) for shape in metadata.shapes]
        dtypes = [getattr(torch, dtype.torch_name) for dtype in metadata.dtypes]
        self._share(original, is_borrowed)
        described = memory_management.MemoryObjMetadata(
            shape=shapes[0],
            dtype=dtypes[0],
            address=original.data_ptr,
            phy_size=original.get_physical_size(),
            ref_count=1,
            fmt=memory_management.MemoryFormat(metadata.fmt.value),
            shapes=shapes,
            dtypes=dtypes,
        )
        # Of a chunk that others hold as well it is a copy: torch has no read-only tensors.
        memory = original.byte_array
        raw = torch.frombuffer(bytearray(memory) if memory.readonly else memory, dtype=torch.uint8)
        memory_management.TensorMemoryObj.__init__(self, raw, described, None)

    @property
    def byte_array(self) -> memoryview:
        """The chunk's bytes. While this memoryview exists, the memory is not used for anything else.

        Raises:
            ReleasedObjectError: the view was released.
        """
        if self._memory is None:
            raise ReleasedObjectError("byte_array")
        return self._memory[: self.get_size()]

    @property
    def tensor(self) -> Any:
        """The first group as a tensor, or None once the object was released."""
        if self._memory is None:
            return None
        return super().tensor if len(self.meta.shapes) == 1 else super().get_tensor(0)

    def get_tensor(self, index: int) -> Any:
        """One group as a tensor, or None once the object was released."""
        return None if self._memory is None else super().get_tensor(index)

    @property
    def raw_tensor(self) -> Any:
        """All bytes as a flat tensor, or None once the object was released."""
        return self.raw_data


class BufferView(_View, memory_management.BytesBufferMemoryObj):  # type: ignore[misc]
    """LMCache's object for a chunk that is only bytes."""

    def __init__(self, original: MemoryObj, *, is_borrowed: bool) -> None:
        self._share(original, is_borrowed)
        shape = torch.Size((original.get_size(), 0, 0, 0))
        described = memory_management.MemoryObjMetadata(
            shape=shape,
            dtype=None,
            address=original.data_ptr,
            phy_size=original.get_physical_size(),
            ref_count=1,
            fmt=memory_management.MemoryFormat.BINARY_BUFFER,
            shapes=[shape],
            dtypes=[None],
        )
        memory_management.BytesBufferMemoryObj.__init__(self, self._memory, described)

    @property
    def byte_array(self) -> memoryview:
        """The chunk's bytes. While this memoryview exists, the memory is not used for anything else.

        Raises:
            ReleasedObjectError: the view was released.
        """
        if self._memory is None:
            raise ReleasedObjectError("byte_array")
        return self._memory[:]

    def get_size(self) -> int:
        """Bytes of the chunk."""
        return len(self._memory or b"")


def view_of(original: MemoryObj, *, is_borrowed: bool) -> TensorView | BufferView:
    """LMCache's object for the memory of `original`, without a copy.

    One that is not borrowed takes over the caller's reference.
    """
    metadata = original.metadata
    is_buffer = (
        metadata.fmt is MemoryFormat.BINARY_BUFFER
        and [len(shape) for shape in metadata.shapes] == [1]
        and metadata.dtypes[0].name == "uint8"
    )
    return (BufferView if is_buffer else TensorView)(original, is_borrowed=is_borrowed)
