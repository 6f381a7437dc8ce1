"""`value_memory`: the memory of what HiCache's old interface is given: a tensor, or an address and a size."""

from __future__ import annotations

from typing import Any

from ...errors import InvalidArgumentError
from ...memory import memory_at
from .host_pool import HostPool, span_of


def value_memory(value: Any, size: Any, pool: HostPool | None) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, or the `size` bytes at the address `value` of the pool's memory.

    The caller holds the tensor, or the pool, for as long as it uses the view.

    Raises:
        InvalidArgumentError: it is neither, the tensor has gaps or lies elsewhere, or the memory is not the pool's.
    """
    if isinstance(value, int):
        if pool is None or not isinstance(size, int):
            raise InvalidArgumentError(
                "target_location", "an address needs a size, and the host pool that it belongs to"
            )
        return pool.region(value, size)
    if not hasattr(value, "data_ptr"):
        raise InvalidArgumentError(
            "value", f"a {type(value).__qualname__}; expected a tensor, or an address and a number of bytes"
        )
    if not value.is_contiguous():
        raise InvalidArgumentError("value", "the tensor is not contiguous; expected a flat page")
    start, end = span_of(value)
    return memory_at(start, end - start)
