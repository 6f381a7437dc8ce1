"""`CallerMemoryObj`: a chunk that lies in memory of its caller. `chunk_of` makes one of a tensor or an array."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InvalidArgumentError, MissingExtraError
from ..metadata import ChunkMetadata, MemoryFormat
from .memory_obj import MemoryObj

if TYPE_CHECKING:
    import numpy
    import torch


class CallerMemoryObj(MemoryObj):
    """A chunk that lies in memory of its caller, for puts of any connector. `chunk_of` makes it.

    It keeps the tensor or the array alive, and ends with its last reference like any chunk. It takes no room in the
    arena, so one that is only dropped, and never released, costs nothing and is not complained of.

    It shows what the tensor holds *now*: leave the tensor as it is until the put has ended. No connector keeps such an
    object or reads it later; a hot cache keeps a copy.
    """

    __slots__ = ("_address",)

    def __init__(self, view: memoryview, metadata: ChunkMetadata, address: int) -> None:
        """`view` has the bytes of `metadata`, and keeps them alive. `address` is that of the first."""
        super().__init__(view, metadata, _NOBODY)
        self._address = address

    @property
    def data_ptr(self) -> int:
        """The address of the first byte, valid for as long as a reference is held."""
        self._live("data_ptr")
        return self._address

    def __del__(self, _warn: Callable[..., None] | None = None) -> None:
        self._view = None


class _Nobody:
    """The owner of such objects: their memory is the caller's."""

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        pass

    def object_let_go(self, obj: MemoryObj) -> None:
        pass


_NOBODY = _Nobody()


def chunk_of(values: Any, fmt: MemoryFormat | None = None) -> CallerMemoryObj:
    """A chunk over the memory of a torch tensor or a numpy array, which is not copied. For `put` and `batched_put`.

    The chunk has the shape and the dtype of `values`, and `fmt`, by default what `ChunkMetadata.of` reads off the
    shape. It keeps the memory alive, and does not have to be released. See `CallerMemoryObj`.

    Nothing is copied in secret. What cannot be sent as it lies is refused, with the call that makes a copy of it: a
    tensor on a GPU (`tensor.cpu()`), and one that is not contiguous (`contiguous()`, `numpy.ascontiguousarray`). A
    read-only array is taken. numpy has no bfloat16 of its own; the arrays of the package ml_dtypes are taken.

    Raises:
        InvalidArgumentError: it is not a tensor or an array, or its memory cannot be sent as it lies.
        InvalidShapeError: it has no elements, or more dimensions than a chunk may have.
        UnknownDtypeError: chunks cannot have its dtype, for example a complex one, or another byte order.
        MissingExtraError: `values` is a tensor, and numpy is not installed.
    """
    # They cannot be objects of a package that nobody has imported.
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    data: Any  # an array of bytes; typeshed does not know that it has the buffer protocol
    if torch is not None and isinstance(values, torch.Tensor):
        data, metadata = _bytes_of_tensor(values, fmt)
    elif numpy is not None and isinstance(values, numpy.ndarray):
        data, metadata = _bytes_of_array(values, fmt)
    else:
        _refuse(
            f"a {type(values).__module__}.{type(values).__qualname__}; expected a torch.Tensor on the CPU or a "
            "numpy.ndarray. Of another library's array pass numpy.asarray(values); put_from() takes any other buffer"
        )
    return CallerMemoryObj(memoryview(data), metadata, int(data.ctypes.data))


def _bytes_of_tensor(tensor: torch.Tensor, fmt: MemoryFormat | None) -> tuple[numpy.ndarray[Any, Any], ChunkMetadata]:
    import torch

    if tensor.layout is not torch.strided:
        _refuse(f"a tensor of the layout {tensor.layout}; pass tensor.to_dense(), which copies")
    if tensor.device.type != "cpu":
        _refuse(f"a tensor on the device {tensor.device}; pass tensor.cpu(), which copies it and waits for the device")
    metadata = _metadata_of(tensor.shape, tensor.dtype, fmt)
    if not tensor.is_contiguous():
        _refuse(
            f"a tensor that is not contiguous (shape {tuple(tensor.shape)}, strides {tensor.stride()}); pass "
            "tensor.contiguous(), which copies"
        )
    if tensor.is_neg():
        _refuse("a tensor that torch negates when it is read; pass tensor.resolve_neg(), which copies")
    try:
        # In one dimension first: the stride of a dimension of one element, as a transposed row has it, may be any.
        # By numpy: torch then refuses to resize the storage, which would free the memory under the chunk.
        return tensor.detach().view(-1).view(torch.uint8).numpy(), metadata
    except RuntimeError:
        if sys.modules.get("numpy") is not None:
            raise
        raise MissingExtraError("chunk_of(tensor)", "numpy", "torch") from None


def _bytes_of_array(
    array: numpy.ndarray[Any, Any], fmt: MemoryFormat | None
) -> tuple[numpy.ndarray[Any, Any], ChunkMetadata]:
    import numpy

    if isinstance(array, numpy.ma.MaskedArray):
        _refuse("a masked array, whose mask would be lost; pass array.filled(), which copies")
    metadata = _metadata_of(array.shape, array.dtype, fmt)
    if not array.flags.c_contiguous:
        _refuse(
            f"an array that is not contiguous (shape {array.shape}, strides {array.strides}); pass "
            "numpy.ascontiguousarray(array), which copies"
        )
    return numpy.asarray(array).reshape(-1).view(numpy.uint8), metadata


def _metadata_of(shape: Any, dtype: Any, fmt: MemoryFormat | None) -> ChunkMetadata:
    if not len(shape):
        _refuse("a single number, without a dimension; pass its reshape(1)")
    return ChunkMetadata.of(tuple(shape), dtype, fmt)


def _refuse(reason: str) -> NoReturn:
    raise InvalidArgumentError("values", reason)
