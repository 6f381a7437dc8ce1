"""The schemes and the plug-ins for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..frame.table import BAD, GOOD, QUIET, Listing
from .plugins import PluginReport
from .scheme_options import OptionsReport
from .schemes import SchemeReport


def print_schemes(reports: Sequence[SchemeReport], console: Console) -> None:
    """Prints one row for each scheme, and below the table the errors of adapters that do not load."""
    listing = Listing("scheme", texts=("adapter", "loads"))
    for report in reports:
        listing.add_row(f"{report.scheme}://", report.adapter, Text("yes", GOOD) if report.loads else Text("no", BAD))
    listing.print(console)
    for report in reports:
        if report.error is not None:
            console.print(Text(report.error, BAD), soft_wrap=True)


def print_plugins(reports: Sequence[PluginReport], console: Console) -> None:
    """Prints one row for each plug-in, and below the table the errors of those that do not load."""
    if not reports:
        console.print(
            "no plug-ins: LMCACHE_CONNECT_REMOTE_STORAGE_PLUGINS is empty, and no package that has one is installed"
        )
        return
    listing = Listing("plug-in", texts=("class", "from", "loads"))
    for report in reports:
        loads = Text("yes", GOOD) if report.loads else Text("no", BAD)
        listing.add_row(report.url, report.target, report.source, loads)
    listing.print(console)
    for report in reports:
        if report.error is not None:
            console.print(Text(f"{report.url}: {report.error}", BAD), soft_wrap=True)


def print_options(reports: Sequence[OptionsReport], console: Console) -> None:
    """Prints what the URLs of a scheme look like, and a row for each option; then the same of the schemes inside it."""
    for number, report in enumerate(reports):
        if number:
            console.print()
        console.print(Text(f"{report.scheme}://", "bold"), Text(report.adapter, QUIET), soft_wrap=True)
        if report.shape:
            console.print(Text(report.shape), soft_wrap=True)
        if report.options is None:
            console.print("any option; the adapter does not say which it knows")
            continue
        listing = Listing("option", texts=("value", "default", "what it does"), folds="what it does")
        for option in report.options:
            listing.add_row(option.name, option.kind, option.default or "", option.text)
        listing.print(console)
