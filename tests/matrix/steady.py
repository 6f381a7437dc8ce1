"""`steadied`: a cell that is the same as before but for a moment's chance is written as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from .cell import Cell, Seen

_ALIKE: Final = (
    frozenset({"StoreStalledError", "OperationTimeoutError", "StoreUnavailableError", "WrongNodeError"}),
    frozenset({"StoreLoadingError", "StoreUnavailableError"}),
)
"""Errors of which a call that tries several times reports that of its last attempt."""

_UNSURE: Final = 1.0
"""Seconds up to which a busy machine may have made a call slow that otherwise ends at once."""


def steadied(cells: Iterable[Cell], before: Iterable[Cell]) -> list[Cell]:
    """The cells, each in the words of the one before where both say the same, and with the better of both times.

    So a run on a busy machine changes nothing that has not changed. What a verdict would be against stays.
    """
    known = {(cell.fault, cell.column): cell for cell in before}
    return [_steadied(cell, known.get((cell.fault, cell.column))) for cell in cells]


def _steadied(cell: Cell, before: Cell | None) -> Cell:
    if before is None:
        return cell
    seen = {
        operation: {mode: _same(each, before.seen.get(operation, {}).get(mode)) for mode, each in modes.items()}
        for operation, modes in cell.seen.items()
    }
    return Cell(cell.fault, cell.column, seen, _sooner(cell.next, before.next), cell.left)


def _sooner(now: str, before: str) -> str:
    return "at once" if {now, before} == {"at once", "within 3 s"} else now


def _same(seen: Seen, before: Seen | None) -> Seen:
    if before is None or seen.when == "LATE" or before.when == "LATE":
        return seen
    alike = seen.outcome == before.outcome or any({seen.outcome, before.outcome} <= names for names in _ALIKE)
    if not alike or (seen.when != before.when and seen.seconds > _UNSURE):
        return seen
    return replace(before, when="at once" if "at once" in {seen.when, before.when} else before.when)
