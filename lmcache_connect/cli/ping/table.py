"""A ping for people."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from ..frame.table import BAD, GOOD
from .ping import PingReport
from .repeated import Answer, RepeatedPingReport, percentile


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


def print_answer(answer: Answer, console: Console) -> None:
    """Prints a line for one ping of several."""
    if answer.error is not None:
        text = Text.assemble(f"{answer.number}: ", ("lost", BAD), f" after {_ms(answer.seconds)} ms: {answer.error}")
    else:
        text = Text(f"{answer.number}: {_ms(answer.seconds)} ms")
        text.append(", with connecting" if answer.number == 1 else "")
    console.print(text, soft_wrap=True)


def print_pings(report: RepeatedPingReport, console: Console) -> None:
    """Prints the summary of several pings."""
    sent, lost = len(report.answers), report.lost
    share = f" ({100 * lost / sent:.1f}%)" if lost else ""
    asked = "" if report.operation == "ping" else f" ({report.operation})"
    console.print(Text(f"{report.store}{asked}"), soft_wrap=True)
    console.print(Text.assemble(f"{sent} sent, ", (f"{lost} lost{share}", BAD if lost else GOOD)))
    if times := report.times:
        facts = {"min": times[0], "avg": sum(times) / len(times), "max": times[-1], "p99": percentile(times, 0.99)}
        console.print(Text(", ".join(f"{name} {_ms(seconds)}" for name, seconds in facts.items()) + " ms"))


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
