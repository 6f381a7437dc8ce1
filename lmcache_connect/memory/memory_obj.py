"""`MemoryObj`: one chunk in memory, with a count of references."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..dtypes import DType
from ..errors import InvalidShapeError, MissingExtraError, ReleasedObjectError
from ..lease import check_leases
from ..metadata import ChunkMetadata, MemoryFormat, Shape
from ..process import this_process
from .allocator import BlockAllocator

if TYPE_CHECKING:
    import numpy
    import torch

_WHAT: Final = "a memory object"


class ObjectOwner(Protocol):
    """What a memory object reports to: the memory that it was allocated from."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        """Called once, when the object dies. `leaked`: it was garbage-collected before it was released.

        Called from any thread and possibly from the garbage collector, so it must not wait for a lock.
        """

    def object_let_go(self, obj: MemoryObj) -> None:
        """Called when a reference or a pin was released and the object lives on: a cache may evict it now."""


class MemoryObj:
    """A chunk's bytes, with its shapes and dtypes.

    It starts with one reference, which belongs to the caller that received it. It dies when the last one is
    released: from then on every use raises `ReleasedObjectError`. `with obj:` releases one reference at the end.
    Views made from it (`byte_array` and slices of it, `numpy()`, `tensor`) keep the memory from being reused as
    long as they exist. So a forgotten view never shows another chunk's data; it only takes up room. Thread-safe.

    In a fork every use of an inherited object raises `ForkedProcessError`. Only `is_valid()`, which says False, and the
    end of a `with` do nothing there.
    """

    __slots__ = (
        "__weakref__",
        "_metadata",
        "_nbytes",
        "_owner",
        "_physical_size",
        "_pins",
        "_process",
        "_refs",
        "_view",
    )

    def __init__(self, view: memoryview, metadata: ChunkMetadata, owner: ObjectOwner) -> None:
        self._view: memoryview | None = view
        self._metadata = metadata
        self._nbytes = metadata.nbytes
        self._physical_size = BlockAllocator.rounded(len(view))
        self._owner = owner
        self._process = this_process()
        self._refs = 1
        self._pins = 0

    # ------------------------------------------------------------------------------------------------- contents

    @property
    def byte_array(self) -> memoryview:
        """A view of exactly the chunk's bytes (format "B", one dimension); a new one each time.

        It is writable, except where the chunk is one that others hold as well (`SharedMemoryObj`).
        """
        return self._bytes("byte_array")[:]  # `with obj.byte_array as view:` must release the copy alone

    def views_of(self, start: int, end: int) -> list[memoryview]:
        """The chunk's bytes from `start` to `end`, as `byte_array` shows them: one view in a list."""
        return [self._bytes("views_of")[start:end]]

    @property
    def metadata(self) -> ChunkMetadata:
        """Shapes, dtypes and format."""
        self._live("metadata")
        return self._metadata

    meta = metadata
    """LMCache's name for it."""

    def get_size(self) -> int:
        """The chunk's size in bytes."""
        self._live("get_size")
        return self._nbytes

    def get_physical_size(self) -> int:
        """The bytes of memory that the chunk takes: its size when it was allocated, rounded up to whole pages."""
        self._live("get_physical_size")
        return self._physical_size

    def get_shapes(self) -> list[Shape]:
        """One shape per tensor group."""
        return list(self.metadata.shapes)

    def get_dtypes(self) -> list[DType]:
        """One dtype per tensor group."""
        return list(self.metadata.dtypes)

    def get_shape(self) -> Shape:
        """The first group's shape."""
        return self.metadata.shapes[0]

    def get_dtype(self) -> DType:
        """The first group's dtype."""
        return self.metadata.dtypes[0]

    def get_memory_format(self) -> MemoryFormat:
        """What the dimensions mean."""
        return self.metadata.fmt

    def get_num_tokens(self) -> int:
        """Tokens in the chunk."""
        return self.metadata.num_tokens

    @property
    def data_ptr(self) -> int:
        """The address of the first byte. Valid for as long as a reference is held."""
        import ctypes

        return ctypes.addressof(ctypes.c_ubyte.from_buffer(self._bytes("data_ptr")))

    def shrink(self, metadata: ChunkMetadata) -> None:
        """Cuts this down to the first `metadata.nbytes` bytes: for a partial chunk that was read into a full buffer.

        Raises:
            InvalidShapeError: the chunk would grow.
        """
        self._process.check(_WHAT)
        with self._process.lock:
            view = self._live("shrink")
            if metadata.nbytes > self._nbytes:
                raise InvalidShapeError(
                    metadata.shapes, f"{metadata.nbytes} bytes do not fit an object of {self._nbytes} bytes"
                )
            self._view = view[: metadata.nbytes]
            self._metadata = metadata
            self._nbytes = metadata.nbytes

    def numpy(self, group: int = 0) -> numpy.ndarray[Any, Any]:
        """A numpy view of one group, in its shape.

        Raises:
            MissingExtraError: numpy is not installed.
            InvalidShapeError: numpy has no such dtype (bfloat16, fp8). `tensor` has it, and needs torch.
        """
        part, shape, dtype = self._group("numpy", group)
        try:
            import numpy
        except ImportError:
            raise MissingExtraError("MemoryObj.numpy()", "numpy", "numpy") from None
        if dtype.numpy_name is None:
            raise InvalidShapeError(
                shape, f"numpy has no dtype {dtype}; use get_tensor() or .tensor, which need torch, or .byte_array"
            )
        return numpy.frombuffer(part, dtype=dtype.numpy_name).reshape(shape)

    @property
    def tensor(self) -> torch.Tensor:
        """A torch view of the first group, in its shape. Raises `MissingExtraError` without torch.

        Of a chunk that is read-only it is a copy.
        """
        return self.get_tensor(0)

    def get_tensor(self, group: int) -> torch.Tensor:
        """A torch view of one group, in its shape. Of a chunk that is read-only it is a copy.

        Raises:
            MissingExtraError: torch is not installed.
            InvalidShapeError: the group does not start at a multiple of its item size.
        """
        part, shape, dtype = self._group("tensor", group)
        try:
            import torch
        except ImportError:
            raise MissingExtraError("MemoryObj.tensor", "torch", "torch") from None
        offset = sum(self._metadata.group_nbytes[:group])
        if offset % dtype.itemsize:
            raise InvalidShapeError(shape, f"group {group} starts at byte {offset}, which {dtype} cannot be viewed at")
        # torch has no read-only tensors: through a view, its owner could write into what others hold as well.
        buffer = bytearray(part) if part.readonly else part
        return torch.frombuffer(buffer, dtype=getattr(torch, dtype.torch_name)).view(shape)

    def _group(self, operation: str, group: int) -> tuple[memoryview, Shape, DType]:
        view = self._bytes(operation)
        sizes = self._metadata.group_nbytes
        if not 0 <= group < len(sizes):
            raise InvalidShapeError(group, f"there is no such tensor group; the chunk has {len(sizes)}")
        start = sum(sizes[:group])
        return view[start : start + sizes[group]], self._metadata.shapes[group], self._metadata.dtypes[group]

    # ------------------------------------------------------------------------------------------------- lifetime

    def is_valid(self) -> bool:
        """Whether the object can be used: it was not released yet, and this is not a fork of its process."""
        return self._view is not None and not self._process.is_forked()

    def get_ref_count(self) -> int:
        """References held now; 0 for a released object."""
        self._process.check(_WHAT)
        return self._refs

    def ref_count_up(self) -> None:
        """Adds a reference. Raises `ReleasedObjectError` on a released object."""
        self._process.check(_WHAT)
        with self._process.lock:
            self._check_live("ref_count_up")
            self._refs += 1

    def ref_count_down(self) -> None:
        """Releases one reference. The last one ends the object: after that this raises `ReleasedObjectError`."""
        self._process.check(_WHAT)
        with self._process.lock:
            self._check_live("ref_count_down")
            self._refs -= 1
            released = not self._refs
            if released:
                self._view = None  # the arena reclaims the block, unless a view of it still exists
                self._pins = 0
        if released:
            self._owner.object_released(self, leaked=False)
        else:
            self._owner.object_let_go(self)

    def pin(self) -> bool:
        """Keeps the object from eviction until `unpin()` was called as often. Returns True."""
        self._process.check(_WHAT)
        with self._process.lock:
            self._check_live("pin")
            self._pins += 1
        return True

    def unpin(self) -> bool:
        """Releases one pin. Returns False where there was none."""
        self._process.check(_WHAT)
        with self._process.lock:
            self._check_live("unpin")
            if not self._pins:
                return False
            self._pins -= 1
        self._owner.object_let_go(self)
        return True

    @property
    def is_pinned(self) -> bool:
        """Whether a pin is held."""
        return self._pins > 0

    def can_evict(self, held: int = 1) -> bool:
        """Whether a cache may drop it: there are no references but the `held` ones of the cache, and no pin."""
        return self._refs <= held and not self._pins

    @property
    def is_read_only(self) -> bool:
        """Whether others may hold the same chunk, so that its views are read-only and its tensors copies."""
        return self._live("is_read_only").readonly

    def belongs_to(self, owner: object) -> bool:
        """Whether `owner` is the memory that allocated the object."""
        return self._owner is owner

    def reports_to(self, owner: object) -> bool:
        """Whether `owner` is told when a reference or a pin is released."""
        return self._owner is owner

    def __enter__(self) -> MemoryObj:
        self._live("with")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_valid():
            self.ref_count_down()

    def __repr__(self) -> str:
        if self._view is None:
            return "<MemoryObj released>"
        shapes = ", ".join(f"{d}{list(s)}" for s, d in zip(self._metadata.shapes, self._metadata.dtypes, strict=True))
        return f"<MemoryObj {shapes} {self._metadata.fmt.name} {self._nbytes} bytes, {self._refs} references>"

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if getattr(self, "_view", None) is None:
            return
        self._view = None
        if self._process.is_forked():
            return
        self._owner.object_released(self, leaked=True)
        _warn(
            f"a MemoryObj of {self._nbytes} bytes was never released: call ref_count_down() or use 'with'",
            ResourceWarning,
            stacklevel=1,
        )

    def _check_live(self, operation: str) -> None:
        if self._view is None:
            raise ReleasedObjectError(operation)

    def _bytes(self, operation: str) -> memoryview:
        check_leases(operation)  # they may be another chunk's by now
        return self._live(operation)

    def _live(self, operation: str) -> memoryview:
        self._process.check(_WHAT)
        view = self._view
        if view is None:
            raise ReleasedObjectError(operation)
        return view
