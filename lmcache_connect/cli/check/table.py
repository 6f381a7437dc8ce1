"""A check for people: one line for each finding, and one below it for what to do."""

from __future__ import annotations

import sys
from typing import Final, TextIO

from rich.console import Console
from rich.padding import Padding
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

_NARROW: Final = 60
_MARGIN: Final = 4


class FindingLines:
    """Prints findings as they come. Signs stand before them on a terminal that can show them, and words elsewhere."""

    def __init__(self, console: Console, out: TextIO | None = None) -> None:
        """`out`: where the console prints; by default stdout. Its encoding decides about signs."""
        self._console: Final = console
        self._has_signs: Final = console.is_terminal and _speaks_unicode(sys.stdout if out is None else out)

    def print(self, finding: Finding) -> None:
        """Prints one finding."""
        sign, word, style = _SIGNS[finding.verdict]
        subject = escaped(clean(finding.subject))
        found = escaped(clean(finding.found))
        servers = f" ({', '.join(finding.servers)})" if finding.servers else ""
        told = f"{found}{escaped(servers)}".strip()
        mark = Text(sign if self._has_signs else f"{word:<7}", style)
        line = Text.assemble(mark, " ", (subject, "bold" if self._has_signs else ""), f": {told}" if told else "")
        advice = escaped(clean(finding.advice))
        console = self._console
        if not console.is_terminal:
            console.print(line if not advice else line + Text(f" -> {advice}"), soft_wrap=True)
            return
        console.print(line, overflow="fold")
        if advice:
            indent = 2 if console.width < _NARROW else _MARGIN
            arrow = "→" if self._has_signs else "->"
            console.print(Padding(Text(f"{arrow} {advice}", style), (0, 0, 0, indent)))


def print_result(report: CheckReport, console: Console) -> None:
    """Prints the last line: how many findings fail, hurt and are unknown, and of which store."""
    counted = [
        (report.count(Verdict.FAILS, Verdict.UNUSABLE), "fail", BAD),
        (report.count(Verdict.HURTS), "hurt", "yellow"),
        (report.count(Verdict.NOTE), "notes", ""),
        (report.count(Verdict.UNKNOWN), "not looked at", QUIET),
        (report.count(Verdict.GOOD), "good", GOOD),
    ]
    parts = [Text(f"{number} {word}", style) for number, word, style in counted if number]
    summary = Text(", ").join(parts)
    said = "" if report.is_usable else "; the store cannot be used"
    console.print(Text.assemble(report.store, ": ", summary, said), overflow="fold", soft_wrap=not console.is_terminal)


def _speaks_unicode(out: TextIO) -> bool:
    return (getattr(out, "encoding", None) or "").lower().replace("-", "") in {"utf8", "utf16", "utf32"}
