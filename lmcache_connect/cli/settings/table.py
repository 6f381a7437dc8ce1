"""What `doctor` and `config show` print for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from ..frame.output import escaped
from ..frame.table import BAD, GOOD, QUIET, Listing, grid
from .doctor import DoctorReport
from .in_effect import SettingReport, SettingsReport
from .packages import PackageReport


def print_doctor(report: DoctorReport, console: Console) -> None:
    """Prints what there is in sections, and at the end what is wrong, with what to do."""
    facts: list[tuple[str, str | Text]] = [("lmcache-connect", report.version)]
    facts += [(fact.name, Text(fact.value, BAD if fact.advice else "")) for fact in report.machine]
    console.print(grid(facts))
    _heading(console, "packages")
    found: dict[str, list[Text]] = {}
    for package in report.packages:
        found.setdefault(f"[{package.extra}]" if package.extra else "needed", []).append(_package(package))
    console.print(grid([(name, Text(", ").join(texts)) for name, texts in found.items()]))
    if not report.packages:
        console.print("lmcache-connect is not installed as a package, so what it needs is not known")
    _heading(console, "engines")
    console.print(grid([(each.engine, each.version or Text("not installed", QUIET)) for each in report.engines]))
    _heading(console, "settings")
    if report.settings is None:
        console.print(Text("cannot be read", BAD))
    else:
        _print_changed(report.settings, console)
    _heading(console, "store")
    console.print(Text(escaped(report.store) if report.store is not None else "none is set"), soft_wrap=True)
    if report.plugins:
        _heading(console, "plug-ins")
        console.print(
            grid(
                [
                    (each.url, Text("loads", GOOD) if each.loads else Text("does not load", BAD))
                    for each in report.plugins
                ]
            )
        )
    console.print()
    if report.ok:
        console.print(Text("nothing is wrong", GOOD))
    for problem in report.problems:
        console.print(Text.assemble(("wrong: ", BAD), escaped(problem.what)), soft_wrap=True)
        console.print(Text(f"  do: {escaped(problem.advice)}"), soft_wrap=True)


def print_settings(report: SettingsReport, console: Console) -> None:
    """Prints a row for each setting: value and source."""
    if report.file is not None:
        console.print(Text(f"settings file: {escaped(report.file)}", QUIET), soft_wrap=True)
    _print_rows(report.settings, console)


def _print_changed(report: SettingsReport, console: Console) -> None:
    changed = [setting for setting in report.settings if not setting.is_default]
    if report.file is not None:
        console.print(Text(f"settings file: {escaped(report.file)}", QUIET), soft_wrap=True)
    if changed:
        _print_rows(changed, console)
    rest = len(report.settings) - len(changed)
    console.print(Text(f"{rest} {'others ' if changed else ''}have their defaults: lmcache-connect config show", QUIET))


def _print_rows(settings: Sequence[SettingReport], console: Console) -> None:
    listing = Listing("setting", texts=("value", "from"), folds="value")
    for setting in settings:
        style = QUIET if setting.is_default else ""
        listing.add_row(setting.name, escaped(setting.value or ""), Text(escaped(str(setting.origin)), style))
    listing.print(console)


def _package(package: PackageReport) -> Text:
    if package.version is None:
        return Text(f"{package.package} not installed", QUIET if package.extra else BAD)
    if not package.fits:
        return Text(f"{package.package} {package.version}, not {package.wanted}", BAD)
    return Text(f"{package.package} {package.version}", GOOD)


def _heading(console: Console, text: str) -> None:
    console.print(Text(f"\n{text}", "bold"))
