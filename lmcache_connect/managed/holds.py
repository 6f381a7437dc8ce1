"""`Holds`: an operation's own references on what it borrows."""

from __future__ import annotations

from collections.abc import Sequence

from ..memory import MemoryObj, release_all


class Holds:
    """Holds one reference on every object that an operation borrows, for as long as the operation may touch them.

    A caller that releases its own reference too early, or is cancelled, then takes no memory from under a transfer.
    """

    __slots__ = ("_objs",)

    def __init__(self, objs: Sequence[MemoryObj]) -> None:
        self._objs = objs

    def __enter__(self) -> None:
        taken: list[MemoryObj | None] = []
        try:
            for obj in self._objs:
                obj.ref_count_up()
                taken.append(obj)
        except BaseException:
            release_all(taken)
            raise

    def __exit__(self, *_: object) -> None:
        for obj in self._objs:
            obj.ref_count_down()
