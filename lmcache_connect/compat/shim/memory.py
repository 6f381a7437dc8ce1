"""LMCache's memory objects: views of this toolkit's, with the names that LMCache has for everything."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import MissingExtraError
from ...memory import MemoryObj, ObjectOwner
from ...metadata import ChunkMetadata, MemoryFormat
from ...observability import event
from ..shapes import Size, dtype_as_seen, narrowed

if TYPE_CHECKING:
    import torch


@dataclass
class MemoryObjMetadata:
    """Shapes, dtypes and format of a chunk as LMCache keeps them; `address` is that of its first byte."""

    shape: Any
    dtype: Any
    address: int
    phy_size: int
    ref_count: int
    pin_count: int = 0
    fmt: MemoryFormat = MemoryFormat.UNDEFINED
    cached_positions: Any = None
    shapes: list[Any] | None = None
    dtypes: list[Any] | None = None

    def get_size(self) -> int:
        """Bytes of the chunk."""
        return ChunkMetadata.of(
            [self.shape] if self.shapes is None else self.shapes, self.dtypes or self.dtype, self.fmt
        ).nbytes


class _Lender:
    """Owns the view that a `put` is lent: its references are nobody else's."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class _Holder:
    """Owns the view of an object that a connector allocated, and gives that back with it."""

    def __init__(self, original: MemoryObj) -> None:
        self._original = original

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        if self._original.is_valid():
            self._original.ref_count_down()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class TensorMemoryObj(MemoryObj):
    """A view of a memory object for a connector that was written for LMCache. Counts references of its own.

    `original` is the object whose memory it shares; a chunk that a connector hands on belongs to the same backend.
    """

    def __init__(self, original: MemoryObj, owner: ObjectOwner, *, is_lent: bool) -> None:
        super().__init__(original.byte_array, original.metadata, owner)
        self.original = original
        self.is_lent = is_lent
        self._meta: MemoryObjMetadata | None = None

    @classmethod
    def lent(cls, original: MemoryObj) -> TensorMemoryObj:
        """A view whose references have nothing to do with the original's."""
        return cls(original, _Lender(), is_lent=True)

    @classmethod
    def holding(cls, original: MemoryObj) -> TensorMemoryObj:
        """A view that has taken over the caller's reference, and gives it back with its own last one."""
        return cls(original, _Holder(original), is_lent=False)

    def settled(self) -> MemoryObj:
        """The original, cut to what the connector made of it.

        Raises:
            InvalidShapeError: that is no chunk.
        """
        original = self.original
        metadata = narrowed(self._metadata, self.meta.shape, self._nbytes)
        if metadata != original.metadata:
            original.shrink(metadata)
        return original

    def claimed(self) -> MemoryObj:
        """The original with a reference for the caller, for the one reference that this view gives up.

        Raises:
            InvalidShapeError: the connector cut it to something that is no chunk.
        """
        if not self.is_valid():
            return self  # which everybody can see
        original = self.original
        original.ref_count_up()
        try:
            self.settled()
        except BaseException:
            original.ref_count_down()
            raise
        self.ref_count_down()
        return original

    @property
    def metadata(self) -> Any:
        """Shapes, dtypes, format and the rest, as LMCache keeps them. One object; its `shape` may be set."""
        self._live("metadata")
        if self._meta is None:
            shapes = [Size(shape) for shape in self._metadata.shapes]
            dtypes = [dtype_as_seen(dtype) for dtype in self._metadata.dtypes]
            self._meta = MemoryObjMetadata(
                shape=shapes[0],
                dtype=dtypes[0],
                address=self.data_ptr,
                phy_size=self.get_physical_size(),
                ref_count=self._refs,
                pin_count=self._pins,
                fmt=self._metadata.fmt,
                shapes=shapes,
                dtypes=dtypes,
            )
        return self._meta

    meta = metadata

    def get_shapes(self) -> list[Any]:
        """One shape per tensor group."""
        return list(self.metadata.shapes)

    def get_dtypes(self) -> list[Any]:
        """One dtype per tensor group: torch's where torch has been imported."""
        return list(self.metadata.dtypes)

    def get_shape(self) -> Any:
        """The first group's shape."""
        return self.metadata.shape

    def get_dtype(self) -> Any:
        """The first group's dtype: torch's where torch has been imported."""
        return self.metadata.dtype

    def get_num_tokens(self) -> int:
        """Tokens in the chunk."""
        self._live("get_num_tokens")
        return self._metadata.num_tokens

    @property
    def raw_data(self) -> torch.Tensor:
        """All bytes as a flat tensor of uint8. Set to a shorter one, the chunk has as many bytes."""
        view = self._live("raw_data")
        try:
            import torch
        except ImportError:
            raise MissingExtraError("MemoryObj.raw_data", "torch", "torch") from None
        return torch.frombuffer(view, dtype=torch.uint8)

    @raw_data.setter
    def raw_data(self, shorter: Any) -> None:
        self.set_used_size(len(shorter))

    @property
    def raw_tensor(self) -> torch.Tensor:
        """`raw_data`."""
        return self.raw_data

    def set_used_size(self, n: int) -> None:
        """Makes this an object of its first `n` bytes. Raises `ValueError` where it has fewer."""
        if not 0 <= n <= self._nbytes:
            raise ValueError(f"{n} bytes of an object of {self._nbytes}")
        self._view = self._live("set_used_size")[:n]
        self._nbytes = n

    def shrink(self, metadata: ChunkMetadata) -> None:
        """As `MemoryObj.shrink`."""
        super().shrink(metadata)
        self._meta = None

    def belongs_to(self, owner: object) -> bool:
        """Whether the original is of this backend."""
        return self.original.belongs_to(owner)

    def parent(self) -> None:
        """No allocator of LMCache's."""

    def __del__(self, *_: Any) -> None:
        # As LMCache's own: what a connector forgot, in an error say, is given back, and told of.
        if getattr(self, "_view", None) is not None:
            self._view = None
            self._owner.object_released(self, leaked=True)
            event(logging.WARNING, "forgotten_object", bytes=self._nbytes)


class BytesBufferMemoryObj(MemoryObj):
    """Bytes that a connector has in a buffer of its own. Its references count nothing; it lives as long as it is used.

    What `get` returns as such is copied into the arena, which it is not part of.
    """

    def __init__(self, raw_bytes: Any, metadata: MemoryObjMetadata | None = None) -> None:
        self.raw_data = raw_bytes
        chunk = ChunkMetadata.of((len(raw_bytes),), "uint8", MemoryFormat.BINARY_BUFFER)
        super().__init__(memoryview(raw_bytes), chunk, _Lender())

    def ref_count_up(self) -> None:
        """Counts nothing."""

    def ref_count_down(self) -> None:
        """Counts nothing."""

    def __del__(self, *_: Any) -> None:
        self._view = None
