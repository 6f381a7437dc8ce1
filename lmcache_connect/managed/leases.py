"""`Leases`: references of an operation's own on what it borrows."""

from __future__ import annotations

from collections.abc import Sequence

from ..memory import MemoryObj, release_all


class Leases:
    """One reference of the operation's own on every object that it borrows, for as long as it may touch them."""

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
