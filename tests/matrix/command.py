"""`python -m tests.matrix`: runs the matrix, and writes `docs/what-happens-when.md`.

Each column runs in a process of its own, some of them side by side. The exit status is 1 where a cell is red: a call
came to something that `tests/matrix/verdict.py` does not allow, was late, or left something. Such a cell, and one that
is not as it was before, is tried once more before that is said. Only a run of all cells without a red one writes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Final

from .catalogue import FAULTS
from .cell import Cell
from .columns import COLUMNS
from .page import CELLS, PAGE, rendered
from .runner import run_column
from .steady import steadied
from .verdict import faults_of

_LONGEST: Final = frozenset({"cluster", "sentinel", "external"})
"""Columns that begin before the others: they take longest."""


def main() -> None:
    """Runs what the arguments say, and exits."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    names = [column.name for column in COLUMNS]
    parser.add_argument("--column", choices=names, action="append", help="only this one; may be repeated")
    faults = [fault.name for fault in FAULTS]
    parser.add_argument("--fault", choices=faults, action="append", help="only this one; may be repeated")
    parser.add_argument("--workers", type=int, default=3, help="columns that run side by side (default: 3)")
    parser.add_argument(
        "--page", action="store_true", help="runs nothing, and writes the page from the cells of the last run"
    )
    parser.add_argument("--cells", action="store_true", help="runs here, and prints each cell as JSON")
    arguments = parser.parse_args()
    chosen = arguments.fault or faults
    if arguments.page:
        write(read_cells())
    elif arguments.cells:
        run_here(arguments.column or names, chosen)
    else:
        sys.exit(_run_all(arguments.column or names, chosen, arguments.workers))


def read_cells() -> list[Cell]:
    """The cells of the last run that wrote."""
    if not CELLS.exists():
        return []
    return [Cell.parse(document) for document in json.loads(CELLS.read_text(encoding="utf-8"))["cells"]]


def write(cells: Sequence[Cell]) -> None:
    """Writes the cells and the page."""
    CELLS.write_text(document_of(cells), encoding="utf-8")
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), cells), encoding="utf-8")


def document_of(cells: Sequence[Cell]) -> str:
    """The cells as JSON, one a line, in the order of the page."""
    order = {(fault.name, column.name): n for n, (fault, column) in enumerate((f, c) for f in FAULTS for c in COLUMNS)}
    ordered = sorted(cells, key=lambda cell: order[cell.fault, cell.column])
    lines = ",\n".join(json.dumps(cell.document()) for cell in ordered)
    return f'{{"cells": [\n{lines}\n]}}\n'


def run_here(columns: Sequence[str], faults: Sequence[str]) -> None:
    """Runs these in this process, and prints each cell with what is wrong with it."""
    logging.getLogger("lmcache_connect").addHandler(logging.NullHandler())
    wanted = [fault for fault in FAULTS if fault.name in faults]
    for column in COLUMNS:
        if column.name in columns:
            asyncio.run(run_column(column, wanted, _tell))


def _tell(cell: Cell) -> None:
    document = cell.document()
    seconds = {
        operation: {mode: seen.seconds for mode, seen in modes.items()} for operation, modes in cell.seen.items()
    }
    print(json.dumps({**document, "seconds": seconds, "red": faults_of(cell)}), flush=True)


def _run_all(columns: Sequence[str], faults: Sequence[str], workers: int) -> int:
    begun = time.monotonic()
    cells = asyncio.run(_side_by_side(columns, faults, workers))
    red = [(cell, faults_of(cell)) for cell in cells if faults_of(cell)]
    for cell, found in red:
        print(f"RED {cell.fault} on {cell.column}: {'; '.join(found)}")
    print(f"{len(cells)} cells, {len(red)} red, {time.monotonic() - begun:.0f} s")
    if red:
        return 1
    if len(columns) == len(COLUMNS) and len(faults) == len(FAULTS):
        write(steadied(cells, read_cells()))
        print(f"written: {CELLS}, {PAGE}")
    return 0


async def _side_by_side(columns: Sequence[str], faults: Sequence[str], workers: int) -> list[Cell]:
    turns = asyncio.Semaphore(workers)
    known = {(cell.fault, cell.column): cell for cell in read_cells()}

    async def run(column: str) -> list[Cell]:
        async with turns:
            cells = {cell.fault: cell for cell in await _in_process(column, faults)}
            again = [cell.fault for cell in cells.values() if faults_of(cell) or _has_changed(cell, known)]
            if again:
                cells |= {cell.fault: cell for cell in await _in_process(column, again)}
            return list(cells.values())

    longest_first = sorted(columns, key=lambda column: column not in _LONGEST)
    return [cell for found in await asyncio.gather(*map(run, longest_first)) for cell in found]


def _has_changed(cell: Cell, known: Mapping[tuple[str, str], Cell]) -> bool:
    before = known.get((cell.fault, cell.column))
    return before is not None and steadied([cell], [before]) != [before]


async def _in_process(column: str, faults: Sequence[str]) -> list[Cell]:
    wanted = [word for fault in faults for word in ("--fault", fault)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.matrix", "--cells", "--column", column, *wanted,
        stdout=asyncio.subprocess.PIPE, env=os.environ, limit=1 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    cells = []
    async for line in process.stdout:
        document = json.loads(line)
        cells.append(Cell.parse(document))
        is_red = "RED " if document["red"] else ""
        print(f"{is_red}{column}: {document['fault']}", file=sys.stderr, flush=True)
    if await process.wait():
        raise RuntimeError(f"the column {column} ended with {process.returncode}")
    return cells
