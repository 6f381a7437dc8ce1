"""A demo's report for people. GB is 10^9 bytes."""

from __future__ import annotations

from typing import Final

from rich.console import Console
from rich.text import Text

from ..frame.sizes import size
from ..frame.table import BAD, GOOD, QUIET, Listing, grid
from .report import Call, DemoReport

GB: Final = 1e9


def print_demo(report: DemoReport, console: Console) -> None:
    """Prints a table of the kinds of chunk, the facts of the whole run, and the result."""
    listing = Listing("chunk", ("count", "size", "put\nGB/s", "get\nGB/s", "p50\nms", "hits", "misses", "verified"))
    for kind in report.kinds:
        listing.add_row(
            kind.kind.name,
            str(kind.kind.count),
            size(kind.kind.chunk.nbytes),
            f"{kind.put_rate / GB:.2f}",
            f"{kind.get_rate / GB:.2f}",
            f"{kind.get_seconds * 1e3:.2f}",
            _compared(kind.hits, kind.expected_hits),
            _compared(kind.misses, kind.expected_misses),
            _share(kind.verified, kind.expected_hits),
        )
    longest = report.longest
    facts: list[tuple[str, str | Text]] = [
        ("store", ", ".join(filter(None, (report.server, report.store)))),
        ("moved", f"{report.bytes_put / GB:.2f} GB put, {report.bytes_got / GB:.2f} GB got"),
        ("time", f"{report.seconds:.2f} s" + (f"; longest call {_call(longest)}" if longest.operation else "")),
        ("keys", _keys(report)),
        ("arena", f"balance {report.arena_balance} of {size(report.arena_capacity)}, {report.arena_objects} objects"),
    ]
    if report.retries:
        facts.append(("retries", str(report.retries)))
    if report.corrupt:
        facts.append(("corrupt", ", ".join(f"{count} ({reason})" for reason, count in report.corrupt.items())))
    for problem, times in report.problems.items():
        facts.append(("problem", Text(problem + (f" ({times} times)" if times > 1 else ""), BAD)))
    listing.print(console)
    console.print()
    console.print(grid([*facts, ("result", _result(report))]))
    console.print(
        Text(
            f"\nGB is 10^9 bytes. Rates are of batches, the median of {report.rounds} rounds; p50 is of single gets. "
            "Hits and misses count the answers of all gets. The misses are of keys that were never put, or removed.",
            QUIET,
        ),
        width=min(console.width, 100),
    )


def _compared(count: int, expected: int) -> Text:
    return Text(str(count)) if count == expected else Text(f"{count}, not {expected}", BAD)


def _share(count: int, whole: int) -> Text:
    return Text(f"{count}/{whole}", GOOD if count == whole else BAD)


def _call(call: Call) -> str:
    chunks = f" of {call.chunks} chunks" if call.chunks > 1 else ""
    return f"{call.seconds:.3f} s ({call.operation}{chunks})"


def _keys(report: DemoReport) -> str:
    left = report.keys_written - report.keys_removed
    return f"{report.keys_written} written, {report.keys_removed} removed" + (
        f"; {left} are left, with the model name {report.model_name}" if left else ""
    )


def _result(report: DemoReport) -> Text:
    if report.ok:
        return Text("every byte verified", GOOD)
    return Text("NOT verified: see the red lines above", BAD)
