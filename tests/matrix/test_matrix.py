"""A short choice of the matrix, and what must be true of all of it. `make matrix` runs it whole."""

from __future__ import annotations

import asyncio

import pytest

from .absent import BY_NEED, ENGINES, LEGEND, reason
from .catalogue import FAULTS
from .cell import Cell, Seen
from .columns import COLUMNS, Column
from .command import document_of, read_cells
from .faults.fault import Fault
from .page import CELLS, PAGE, rendered
from .runner import run_column
from .steady import steadied
from .verdict import ALLOWED, faults_of

SHORT = {
    "memory": ("fork", "second-loop", "arena-full"),
    "redis": ("reset", "extra-reply", "error-loading", "kill", "full", "rotated-login", "cancel"),
    "s3": ("half-close", "http-503", "flip-payload"),
    "hot": ("wrong-login", "restart-empty"),
    "external": ("cut", "plugin-raises", "plugin-exits"),
    "port": ("black-hole",),
}


def fault(name: str) -> Fault:
    [found] = [each for each in FAULTS if each.name == name]
    return found


def column(name: str) -> Column:
    [found] = [each for each in COLUMNS if each.name == name]
    return found


@pytest.mark.parametrize("name", SHORT)
def test_each_fault_of_the_choice_comes_to_what_is_allowed_and_leaves_nothing(name: str) -> None:
    cells: list[Cell] = []
    asyncio.run(run_column(column(name), [fault(each) for each in SHORT[name]], cells.append))
    assert [cell.fault for cell in cells] == list(SHORT[name])
    assert {cell.fault: found for cell in cells if (found := faults_of(cell))} == {}


def test_every_cell_is_tried_or_has_a_reason_and_no_cell_has_both() -> None:
    used: set[str] = set()
    for each in FAULTS:
        for of in COLUMNS:
            if of.place_for(each) is None:
                used.add(reason(each, of))
            else:
                with pytest.raises(KeyError):
                    reason(each, of)
    assert used == set(LEGEND)
    assert {each.needs for each in FAULTS} == set(BY_NEED)
    assert {each.name for each in FAULTS if each.only_applications} == set(ENGINES)


def test_every_fault_has_a_verdict_and_a_name_of_its_own() -> None:
    assert [each.name for each in FAULTS] == list(dict.fromkeys(each.name for each in FAULTS))
    assert {each.name for each in FAULTS} == set(ALLOWED)


def test_the_cells_of_the_last_run_are_all_there_and_none_is_red() -> None:
    cells = read_cells()
    tried = {(each.name, of.name) for each in FAULTS for of in COLUMNS if of.place_for(each) is not None}
    assert {(cell.fault, cell.column) for cell in cells} == tried
    assert [(cell.fault, cell.column, found) for cell in cells if (found := faults_of(cell))] == []


def test_the_page_agrees_with_the_cells() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page, read_cells()) == page, "run `python -m tests.matrix --page`"
    assert document_of(read_cells()) == CELLS.read_text(encoding="utf-8")


GOOD = Cell(
    "reset",
    "redis",
    {
        "put": {"raise": Seen("stored", "at once"), "miss": Seen("stored", "at once")},
        "get": {"raise": Seen("value", "at once"), "miss": Seen("value", "at once")},
    },
    "at once",
)


def changed(put: Seen | None = None, *, next_call: str = "at once", left: tuple[str, ...] = ()) -> Cell:
    seen = {**GOOD.seen, "put": {**GOOD.seen["put"], "raise": put or GOOD.seen["put"]["raise"]}}
    return Cell(GOOD.fault, GOOD.column, seen, next_call, left)


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        (changed(Seen("WRONG VALUE", "at once")), "put with errors=raise: a wrong value"),
        (changed(Seen("dropped", "at once")), "put with errors=raise: dropped; expected stored"),
        (changed(Seen("ValueError", "at once")), "put with errors=raise: ValueError; expected stored"),
        (changed(Seen("stored, then CircuitOpenError", "at once")), "expected stored"),
        (changed(Seen("stored", "LATE")), "put with errors=raise: later than its deadline"),
        (changed(next_call="never"), "no call worked after it"),
        (changed(left=("1 descriptors",)), "left behind: 1 descriptors"),
    ],
)
def test_the_verdict_finds_what_must_not_be(cell: Cell, complaint: str) -> None:
    assert faults_of(GOOD) == []
    [found] = faults_of(cell)
    assert complaint in found


def test_a_run_on_a_busy_machine_changes_no_cell_but_one_that_has_changed() -> None:
    slower = changed(Seen("stored", "in time", 0.5), next_call="within 3 s")
    assert steadied([slower], [GOOD]) == [GOOD]
    waiting = changed(Seen("stored", "in time", 1.8))
    assert steadied([waiting], [GOOD]) == [waiting]
    failing = changed(Seen("StoreStalledError", "at once", 0.1))
    assert steadied([failing], [GOOD]) == [failing]
    left = changed(left=("1 tasks",))
    assert steadied([left], [GOOD]) == [left]
    assert steadied([GOOD], []) == [GOOD]


def test_a_time_that_a_busy_machine_has_made_longer_is_written_as_the_shorter_one_of_a_later_run() -> None:
    slower = changed(Seen("stored", "in time", 0.5), next_call="within 3 s")
    assert steadied([GOOD], [slower]) == [GOOD]
