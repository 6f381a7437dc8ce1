"""Releasing references in bulk."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .memory_obj import MemoryObj


@runtime_checkable
class _Releasable(Protocol):
    """A memory object of another library, such as LMCache's own."""

    def is_valid(self) -> bool: ...

    def ref_count_down(self) -> None: ...


def release_all(result: object) -> None:
    """Releases one reference of every memory object in a result: of one object, or of each in a list or tuple.

    Whatever else is in the result is left alone: None for a miss, an object that was released already, other values.
    """
    for item in result if isinstance(result, list | tuple) else (result,):
        if item is not None and isinstance(item, (MemoryObj, _Releasable)) and item.is_valid():
            item.ref_count_down()
