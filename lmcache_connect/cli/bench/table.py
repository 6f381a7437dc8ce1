"""A benchmark for people. GB is 10^9 bytes."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..frame.sizes import size
from ..frame.table import BAD, GOOD, QUIET, Listing, grid
from .plan import Mode
from .report import BenchReport, Figures, Row


def print_bench(report: BenchReport, console: Console) -> None:
    """Prints a row for each operation, size and way of calling, then the facts of the whole run."""
    against = report.against is not None
    numbers = ["calls", "GB/s", "keys/s", "p50 ms", "p95 ms", "p99 ms", "CPU s/GB"]
    if against:
        numbers += ["other GB/s", "other keys/s", "other p50 ms", "ratio"]
    listing = Listing("call", numbers)
    for row in report.rows:
        cells = [_name(row), str(row.figures.calls), *_cells(row, row.figures)]
        if row.other is not None:
            rate, keys, p50, *_ = _cells(row, row.other)
            cells += [rate, keys, p50, _ratio(row)]
        listing.add_row(*cells)
    listing.print(console)
    console.print()
    facts: list[tuple[str, str | Text]] = [("store", report.store)]
    if report.against is not None:
        facts += [("other", report.against), ("ratio", "of the rates: above 1, the store is faster than the other")]
    facts.append(("moved", f"{report.moved / 1e9:.2f} GB in {report.seconds:.1f} s, {report.verified} chunks verified"))
    for nbytes, option in dict.fromkeys((nbytes, option) for nbytes, _, option in report.left_out):
        ways = [how for each, how, why in report.left_out if (each, why) == (nbytes, option)]
        facts.append(("left out", Text(f"{size(nbytes)}, {', '.join(ways)}: give more {option}", QUIET)))
    for problem, times in report.problems.items():
        facts.append(("problem", Text(f"{problem} ({times} times)", BAD)))
    right = Text("every chunk came back as it was put", GOOD)
    facts.append(("result", right if report.ok else Text("NOT as it was put: see the problems", BAD)))
    console.print(grid(facts), soft_wrap=not console.is_terminal)


def _name(row: Row) -> str:
    what = f"{row.operation.value} {size(row.nbytes)}" if row.nbytes else row.operation.value
    return f"{what}, {_mode(row.mode)}"


def _mode(mode: Mode) -> str:
    return f"batch {mode.batch}" if mode.batch > 1 else f"x{mode.concurrency}"


def _cells(row: Row, figures: Figures) -> list[str]:
    return [
        f"{figures.rate / 1e9:.3f}" if row.nbytes else "",
        f"{figures.key_rate:,.0f}" if figures.key_rate >= 10 else f"{figures.key_rate:.1f}",
        _ms(figures.p50),
        _ms(figures.p95),
        _ms(figures.p99),
        "" if figures.cpu_per_gb is None else f"{figures.cpu_per_gb:.2f}",
    ]


def _ratio(row: Row) -> str:
    return "" if row.ratio is None else f"{row.ratio:.2f}"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.2f}"
