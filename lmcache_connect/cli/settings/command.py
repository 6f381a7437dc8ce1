"""`lmcache-connect doctor`, `config show` and `config init`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_NOT_VERIFIED
from ..frame.output import console, print_json
from ..frame.store_argument import StoreArgument, StoreOption, given_url, store_if_named
from .defaults_file import defaults_file
from .doctor import examine
from .document import doctor_document, settings_document
from .in_effect import settings_in_effect
from .table import print_doctor, print_settings


def doctor(store: StoreArgument = None, url: StoreOption = None, as_json: AsJSON = False) -> None:
    """Show versions, limits, engines, plug-ins and settings with their sources, and what is wrong. Connects to nothing.

    No secret is shown, so that the output can go into a bug report. Exits with 0 if nothing is wrong, 1 if something
    is, 2 if it could not look.
    """
    report = asyncio.run(examine(given_url(store, url)))
    if as_json:
        print_json(doctor_document(report))
    else:
        print_doctor(report, console())
    if not report.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def show(
    store: StoreArgument = None,
    url: StoreOption = None,
    defaults: Annotated[
        bool, typer.Option("--defaults", help="Print a settings file with every setting and its default instead.")
    ] = False,
    as_json: AsJSON = False,
) -> None:
    """Show every setting in effect, and where it comes from: URL, environment, settings file, or default.

    The options of the URL, given here or in the settings, are in the place of what they override. Connects to
    nothing. Exits with 0 if the settings are right, 2 if not.
    """
    if defaults:
        if as_json:
            raise typer.BadParameter("--defaults prints TOML; give one of them", param_hint="'--json'")
        typer.echo(defaults_file(), nl=False)
        return
    report = settings_in_effect(store_if_named(store, url))
    if as_json:
        print_json(settings_document(report))
    else:
        print_settings(report, console())


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write. It must not exist.")],
    as_json: AsJSON = False,
) -> None:
    """Write a settings file with every setting, its default and what it does, for you to change.

    The file gets the mode 0600. As it is, it changes nothing. Exits with 0 if it was written, 2 if not.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        opened.write(defaults_file())
    if as_json:
        print_json({"ok": True, "file": str(file)})
    else:
        typer.echo(f"wrote {file}")


COMMANDS: Final = (
    Command(doctor, ("", "redis://cache:6379?ttl=1d", "--json --config settings.toml")),
    Command(show, ("", "--config settings.toml", "redis://cache:6379?timeout=2s", "--defaults"), group="config"),
    Command(init, ("settings.toml",), group="config"),
)
