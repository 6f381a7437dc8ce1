"""LMCache's memory objects: views of chunks in the arena, under LMCache's names."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...errors import MissingExtraError
from ...memory import MemoryObj
from ...metadata import ChunkMetadata, MemoryFormat
from ...observability import RepeatedEvent
from ..chunk_view import ChunkView
from ..shapes import Size, dtype_as_seen

if TYPE_CHECKING:
    import torch

_FORGOTTEN: Final = RepeatedEvent("forgotten_object")


@dataclass
class MemoryObjMetadata:
    """Shapes, dtypes and format of a chunk as LMCache keeps them. `address` is the address of its first byte."""

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


class _Owner:
    """Releases the reference that a view holds, together with the view's own last one."""

    def __init__(self, held: MemoryObj | None) -> None:
        self._held = held

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        if self._held is not None and self._held.is_valid():
            self._held.ref_count_down()

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


class TensorMemoryObj(MemoryObj, ChunkView):
    """A guest's view of a chunk. It belongs to the same backend as `original`."""

    def __init__(self, original: MemoryObj, *, is_borrowed: bool) -> None:
        super().__init__(original.byte_array, original.metadata, _Owner(None if is_borrowed else original))
        self.original: MemoryObj | None = original
        self.is_borrowed = is_borrowed
        self._meta: MemoryObjMetadata | None = None

    @property
    def data_ptr(self) -> int:
        """The address of the first byte. Valid for as long as a reference is held."""
        self._live("data_ptr")
        assert self.original is not None  # noqa: S101  # it is as long as the view lives
        return self.original.data_ptr

    @property
    def chunk_metadata(self) -> ChunkMetadata:  # type: ignore[override]
        """What the view was made for, or was shrunk to."""
        return self._metadata

    @property
    def metadata(self) -> Any:
        """Shapes, dtypes and format as LMCache keeps them. Always the same object, and its `shape` may be set."""
        self._live("metadata")
        if self._meta is None:
            shapes = [Size(shape) for shape in self._metadata.shapes]
            dtypes = [dtype_as_seen(dtype) for dtype in self._metadata.dtypes]
            if self._metadata.fmt is MemoryFormat.BINARY_BUFFER and [len(shape) for shape in shapes] == [1]:
                shapes, dtypes = [_buffer_shape(shapes[0][0])], [None]  # as LMCache describes its buffers
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
        """All bytes as a flat tensor of uint8: of a read-only chunk, a copy.

        Setting it to a shorter tensor cuts the chunk to that many bytes.

        Raises:
            MissingExtraError: torch is not installed.
        """
        view = self._live("raw_data")
        try:
            import torch
        except ImportError:
            raise MissingExtraError("MemoryObj.raw_data", "torch", "torch") from None
        return torch.frombuffer(bytearray(view) if view.readonly else view, dtype=torch.uint8)

    @raw_data.setter
    def raw_data(self, shorter: Any) -> None:
        self.set_used_size(len(shorter))

    @property
    def raw_tensor(self) -> torch.Tensor:
        """`raw_data`."""
        return self.raw_data

    def set_used_size(self, n: int) -> None:
        """Cuts the object to its first `n` bytes. Raises `ValueError` where it has fewer."""
        if not 0 <= n <= self._nbytes:
            raise ValueError(f"{n} bytes of an object of {self._nbytes}")
        self._view = self._live("set_used_size")[:n]
        self._nbytes = n

    def shrink(self, metadata: ChunkMetadata) -> None:
        """As `MemoryObj.shrink`."""
        super().shrink(metadata)
        self._meta = None

    def belongs_to(self, owner: object) -> bool:
        """Whether the original belongs to this backend."""
        return self.original is not None and self.original.belongs_to(owner)

    def parent(self) -> None:
        """None: the memory was not allocated by LMCache."""

    def __del__(self, *_: Any) -> None:
        # As LMCache does: what a guest forgot to release is released here and logged.
        if getattr(self, "_view", None) is not None:
            self._view = None
            self._owner.object_released(self, leaked=True)
            _FORGOTTEN.tell(logging.WARNING, bytes=self._nbytes)


def _buffer_shape(nbytes: int) -> Size:
    return Size((nbytes, 0, 0, 0))


class BytesBufferMemoryObj(MemoryObj):
    """Bytes in a buffer of the guest's own. References are not counted: it lives as long as it is used.

    What `get` returns as such is copied into the arena.
    """

    def __init__(self, raw_bytes: Any, metadata: MemoryObjMetadata | None = None) -> None:
        self.raw_data = raw_bytes
        chunk = ChunkMetadata.of((len(raw_bytes),), "uint8", MemoryFormat.BINARY_BUFFER)
        super().__init__(memoryview(raw_bytes), chunk, _Owner(None))

    # As LMCache describes it: without a dtype.

    def get_shapes(self) -> list[Any]:
        """`[length, 0, 0, 0]`."""
        return [self.get_shape()]

    def get_dtypes(self) -> list[Any]:
        """None: bytes have no dtype."""
        return [None]

    def get_shape(self) -> Any:
        """`[length, 0, 0, 0]`."""
        return _buffer_shape(self.get_size())

    def get_dtype(self) -> Any:
        """None: bytes have no dtype."""
        return None

    def ref_count_up(self) -> None:
        """Does nothing."""

    def ref_count_down(self) -> None:
        """Does nothing."""

    def __del__(self, *_: Any) -> None:
        self._view = None
