"""A ping for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..frame.table import BAD, GOOD
from .ping import PingReport


def print_ping(report: PingReport, console: Console) -> None:
    """Prints a line with the store and the times, and one for each of its servers that has not answered."""
    asked = "" if report.operation == "ping" else f" ({report.operation})"
    console.print(
        Text.assemble(
            report.store,
            (" answers", GOOD),
            f": round trip {_ms(report.round_trip_seconds)} ms{asked}, connected in {_ms(report.connect_seconds)} ms",
        ),
        soft_wrap=True,
    )
    for server in report.silent:
        why = server.detail.removeprefix(f"{server.server}: ")
        console.print(Text.assemble(server.server, (" does not answer", BAD), f": {why}"), soft_wrap=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
