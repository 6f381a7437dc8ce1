"""Giving references back in bulk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from .memory_obj import MemoryObj

if TYPE_CHECKING:
    pass


@runtime_checkable
class Releasable(Protocol):
    """What holds a reference that has to be given back: a `MemoryObj`."""

    def is_valid(self) -> bool: ...

    def ref_count_down(self) -> None: ...


def release_unclaimed(result: object) -> None:
    """Gives back the memory objects in a result that nobody will receive."""
    for item in result if isinstance(result, list | tuple) else (result,):
        if isinstance(item, Releasable) and item.is_valid():
            item.ref_count_down()


def release_all(objs: list[MemoryObj | None]) -> None:
    """Gives back one reference of every object of a batch that will not be handed out."""
    for obj in objs:
        if obj is not None and obj.is_valid():
            obj.ref_count_down()
