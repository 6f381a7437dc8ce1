"""Tables for people: columns where they fit the terminal, else a few lines for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

GOOD: Final = "green"
BAD: Final = "bold red"
QUIET: Final = "dim"

_ANY_WIDTH: Final = 100_000

_LEAST_PROSE: Final = 24
"""Columns that are enough for a column of sentences."""


class Listing:
    """Rows under a heading. The first column names the row; `numbers` are right-aligned, then come `texts`.

    The column `folds` is prose, or may be long: it is folded where enough room is left for it.
    """

    def __init__(
        self, first: str, numbers: Sequence[str] = (), texts: Sequence[str] = (), *, folds: str | None = None
    ) -> None:
        self._folds = folds
        self._first = first
        self._numbers = tuple(numbers)
        self._texts = tuple(texts)
        self._rows: list[list[Text]] = []

    def add_row(self, *cells: str | Text) -> None:
        """Adds a row: one cell for each column. A string is printed as it is."""
        # As Text, because rich takes brackets in a plain string, such as a URL's, for markup.
        self._rows.append([cell if isinstance(cell, Text) else Text(cell) for cell in cells])

    def print(self, console: Console) -> None:
        """Prints a table if it fits the console's width, and else each row's cells below each other.

        There is a line under the heading on a terminal alone.
        """
        table = self._table(console.is_terminal)
        wide = console.options.update(max_width=_ANY_WIDTH)
        needed = Measurement.get(console, wide, table).maximum
        if self._folds is not None:
            column = 1 + len(self._numbers) + self._texts.index(self._folds)
            longest = max((row[column].cell_len for row in self._rows), default=0)
            needed -= max(0, longest - _LEAST_PROSE)
        if needed <= console.width:
            console.print(Stripped(table))
            return
        names = [name.replace("\n", " ") for name in (*self._numbers, *self._texts)]
        for first, *others in self._rows:
            console.print(first, soft_wrap=True)
            facts = [(f"  {name}", cell) for name, cell in zip(names, others, strict=True) if cell.plain]
            if facts:
                console.print(grid(facts))

    def _table(self, ruled: bool) -> Table:
        kind = box.SIMPLE_HEAD if ruled else None
        table = Table(box=kind, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
        table.add_column(self._first, vertical="top", no_wrap=True)
        for name in self._numbers:
            table.add_column(name, justify="right", no_wrap=True)
        for name in self._texts:
            table.add_column(name, no_wrap=name != self._folds, overflow="fold")
        for row in self._rows:
            table.add_row(*row)
        return table


class Stripped:
    """Anything that rich prints, without the spaces that it fills lines with."""

    def __init__(self, inner: Table) -> None:
        self._inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self._inner, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                line[-1] = Segment(line[-1].text.rstrip(), line[-1].style)
            yield from line
            yield Segment.line()

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._inner)


def grid(facts: Sequence[tuple[str, str | Text]]) -> Stripped:
    """Facts, each on a line with its name. Long ones are folded."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style=QUIET, no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in facts:
        made.add_row(name, value if isinstance(value, Text) else Text(value))
    return Stripped(made)
