"""`ListingWriter`: prints a listing of any length as it comes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import Enum
from typing import Any

from ...known_secrets import clean
from ..frame.output import error_document, escaped
from .document import list_document, row_document
from .ls import ListReport, Row
from .table import LONG_HEADING, line_of


class Style(Enum):
    """How a listing is printed: names, lines with facts, one JSON document, JSON lines, or only how many."""

    NAMES = "names"
    LONG = "long"
    JSON = "json"
    LINES = "lines"
    COUNT = "count"


class ListingWriter:
    """Writes pages to stdout. Holds none of them. With `Style.JSON` the document is whole when `end` was called."""

    def __init__(self, style: Style, *, facts: bool) -> None:
        self._style = style
        self._facts = facts
        self._has_begun = False

    def page(self, rows: Sequence[Row]) -> None:
        """Writes some keys."""
        match self._style:
            case Style.COUNT:
                return
            case Style.LONG:
                lines = [line_of(row) for row in rows]
                if not self._has_begun and sys.stdout.isatty():
                    lines.insert(0, LONG_HEADING)
            case Style.LINES:
                lines = [json.dumps(row_document(row, facts=self._facts)) for row in rows]
            case Style.JSON:
                documents = [json.dumps(row_document(row, facts=self._facts)) for row in rows]
                self._write((",\n    " if self._has_begun else '{\n  "keys": [\n    ') + ",\n    ".join(documents))
                self._has_begun = True
                return
            case _:
                lines = [escaped(row.key) for row in rows]
        self._has_begun = True
        self._write("\n".join(lines) + "\n")

    def end(self, report: ListReport) -> None:
        """Writes what stands behind the keys."""
        if self._style is Style.COUNT:
            self._write(f"{report.count}\n")
        if self._style is not Style.JSON:
            return
        rest: dict[str, Any] = {**list_document(report), "ok": report.ok}
        if report.error is not None:
            rest |= error_document(report.error)
        if not self._has_begun:
            self._write('{\n  "keys": [')
        self._write("\n  ],\n" + json.dumps(rest, indent=2)[2:] + "\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(clean(text))
