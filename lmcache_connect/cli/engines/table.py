"""The engines for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..frame.table import GOOD, QUIET, Listing
from .engines import EnginesReport


def print_engines(report: EnginesReport, console: Console) -> None:
    """Prints one row for each engine, then each text on a line of its own, then the notes."""
    listing = Listing("engine", texts=("package", "installed"))
    for engine in report.engines:
        installed = Text("no", QUIET) if engine.version is None else Text(engine.version, GOOD)
        listing.add_row(engine.engine, engine.package, installed)
    listing.print(console)
    for engine in report.engines:
        for each in engine.texts:
            console.print(Text(f"\n{engine.engine}, {each.way}:", QUIET))
            console.print(Text(each.text), soft_wrap=True)
    if report.notes:
        console.print()
    for note in report.notes:
        console.print(Text(note), soft_wrap=True)
