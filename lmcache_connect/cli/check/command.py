"""`lmcache-connect check`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from ...contract import Finding
from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_NOT_VERIFIED, EXIT_USAGE
from ..frame.options import size_option
from ..frame.output import console, print_json, warn
from ..frame.quantities import seconds
from ..frame.room import Anyway
from ..frame.store_argument import StoreArgument, StoreOption, store_url
from .check import run_check
from .document import check_document
from .table import FindingLines, print_result


def check(
    store: StoreArgument = None,
    url: StoreOption = None,
    timeout: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="TIME", help="The longest that one step may take, such as 500ms.", show_default="5s"
        ),
    ] = 5.0,
    max_bytes: Annotated[
        int,
        typer.Option(
            parser=size_option, metavar="SIZE", help="The most that lies in the store at a time.", show_default="64MiB"
        ),
    ] = 64 << 20,
    anyway: Anyway = False,
    as_json: AsJSON = False,
) -> None:
    """Check what works of a store, what does not, and what to do.

    Connects, tries each command that is used, puts, gets, lists and removes chunks, and reads settings that hurt. Its
    keys begin with lmcache-connect-check, expire where the store can do that, and are removed. Exits with 0 if all is
    good, 1 if something hurts or fails, 2 if the store cannot be used.
    """
    out = console()
    lines = FindingLines(out)

    def show(finding: Finding) -> None:
        if not as_json:
            lines.print(finding)

    found = asyncio.run(
        run_check(
            store_url(store, url), timeout=timeout, max_bytes=max_bytes, anyway=anyway, on_finding=show, on_warning=warn
        )
    )
    if as_json:
        print_json(check_document(found))
    else:
        print_result(found, out)
    if not found.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED if found.is_usable else EXIT_USAGE)


COMMAND: Final = Command(
    check,
    (
        "redis://cache:6379",
        "--timeout 2s rediss://cache:6380?ca_file=ca.pem",
        "--json s3://bucket/prefix",
    ),
)
