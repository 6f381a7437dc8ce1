"""What chunks become for callers who want a tensor or an array: a view that keeps the chunk's memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidShapeError
from ..memory import MemoryObj

if TYPE_CHECKING:
    import numpy
    import torch

_COPIED_AT_ONCE: Final = 1 << 20
"""Bytes that may be copied on the event loop: a tenth of a millisecond."""


def array_of(chunk: MemoryObj) -> numpy.ndarray[Any, Any]:
    """The chunk as an array. Takes over its reference: the chunk's memory lives as long as the array and its views."""
    with chunk:
        return _whole(chunk).numpy()


def tensor_of(chunk: MemoryObj) -> torch.Tensor:
    """The chunk as a tensor. Takes over its reference: the chunk's memory lives as long as the tensor and its views.

    Of a read-only chunk it is a copy.
    """
    with chunk:
        return _whole(chunk).tensor


async def tensor_of_async(chunk: MemoryObj) -> torch.Tensor:
    """`tensor_of` that copies in a thread where there is much to copy."""
    with chunk:
        if _whole(chunk).is_read_only and chunk.get_size() > _COPIED_AT_ONCE:
            # Its view keeps the memory, also for a thread whose caller was cancelled.
            return await asyncio.to_thread(chunk.get_tensor, 0)
        return chunk.tensor


def _whole(chunk: MemoryObj) -> MemoryObj:
    shapes = chunk.get_shapes()
    if len(shapes) > 1:
        raise InvalidShapeError(
            shapes, f"the chunk has {len(shapes)} tensor groups; get() it, and take each by get_tensor(n) or numpy(n)"
        )
    return chunk
