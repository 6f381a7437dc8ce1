"""A check for people: one line for each finding, and one below it for what to do."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...contract import Finding, Verdict
from ...known_secrets import clean
from ..frame.output import escaped
from ..frame.table import BAD, GOOD, QUIET
from .report import CheckReport

_SIGNS: Final = {
    Verdict.GOOD: ("✓", "ok", GOOD),
    Verdict.NOTE: ("·", "note", ""),
    Verdict.UNKNOWN: ("?", "unknown", QUIET),
    Verdict.HURTS: ("!", "hurts", "yellow"),
    Verdict.FAILS: ("✗", "fails", BAD),
    Verdict.UNUSABLE: ("✗", "fails", BAD),
}


class FindingLines:
    """Prints findings as they come. Signs stand before them on a terminal that can show them, and words elsewhere."""

    def __init__(self, console: Console, out: TextIO | None = None) -> None:
        """`out`: where the console prints; by default stdout. Its encoding decides about signs."""
        self._console: Final = console
        self._has_signs: Final = console.is_terminal and _speaks_unicode(sys.stdout if out is None else out)

    def print(self, finding: Finding) -> None:
        """Prints one finding."""
        console = self._console
        sign, word, style = _SIGNS[finding.verdict]
        subject = escaped(clean(finding.subject))
        found = escaped(clean(finding.found))
        servers = f" ({', '.join(finding.servers)})" if finding.servers else ""
        told = f"{found}{escaped(servers)}".strip()
        mark = Text(sign if self._has_signs else f"{word:<7}", style)
        what = Text.assemble((subject, "bold" if console.is_terminal else ""), f": {told}" if told else "")
        advice = escaped(clean(finding.advice))
        if not console.is_terminal:
            console.print(Text.assemble(mark, " ", what, f" -> {advice}" if advice else ""), soft_wrap=True)
            return
        lines = Table.grid(padding=(0, 1))
        lines.add_column(no_wrap=True)
        lines.add_column(overflow="fold")
        lines.add_row(mark, what)
        if advice:
            lines.add_row("", Text(f"{'→' if self._has_signs else '->'} {advice}", style))
        console.print(lines)


def print_result(report: CheckReport, console: Console) -> None:
    """Prints the last line: how many findings fail, hurt and are unknown, and of which store."""
    counted = [
        (report.count(Verdict.FAILS, Verdict.UNUSABLE), "failed", BAD),
        (report.count(Verdict.HURTS), "hurting", "yellow"),
        (report.count(Verdict.NOTE), "noted", ""),
        (report.count(Verdict.UNKNOWN), "not looked at", QUIET),
        (report.count(Verdict.GOOD), "good", GOOD),
    ]
    parts = [Text(f"{number} {word}", style) for number, word, style in counted if number]
    summary = Text(", ").join(parts)
    said = "" if report.is_usable else "; the store cannot be used"
    line = Text.assemble(report.store, ": ", summary, said)
    if console.is_terminal:
        console.print(line, overflow="fold")
    else:
        console.print(line, soft_wrap=True)


def _speaks_unicode(out: TextIO) -> bool:
    return (getattr(out, "encoding", None) or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}
