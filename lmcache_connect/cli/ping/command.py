"""`lmcache-connect ping`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_INTERRUPTED, EXIT_NOT_VERIFIED, EXIT_USAGE
from ..frame.output import console, print_json
from ..frame.quantities import seconds
from ..frame.store_argument import StoreArgument, StoreOption, store_url
from .document import ping_document, pings_document
from .ping import run_ping
from .repeated import Answer, run_pings
from .table import print_answer, print_ping, print_pings

_LONGEST: Final = 3600.0


def ping(
    store: StoreArgument = None,
    url: StoreOption = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-c", min=0, max=10_000_000, metavar="N", help="Ask so many times. 0: until Ctrl-C, as ping(8)."
        ),
    ] = None,
    interval: Annotated[
        float | None,
        typer.Option(
            "--interval",
            "-i",
            parser=seconds,
            metavar="DURATION",
            help="From one to the next, 1s by default. Without --count, ask until Ctrl-C.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            parser=seconds,
            metavar="DURATION",
            help="For connecting and all calls together, or for each one with --count. By default 5s.",
            show_default=False,
        ),
    ] = 5.0,
    as_json: AsJSON = False,
) -> None:
    """Connect to a store and measure how fast it answers. Changes nothing in the store.

    Of a store with several servers, those that do not answer are named. With --count or --interval there is a line for
    each answer, and a summary at the end, or at Ctrl-C. Exits with 0 if the store answers, 1 if some answers were
    lost, 2 if not.
    """
    if timeout > _LONGEST:
        raise typer.BadParameter("expected at most an hour", param_hint="'--timeout'")
    place = store_url(store, url)
    if count is None and interval is None:
        found = asyncio.run(run_ping(place, timeout))
        if as_json:
            print_json(ping_document(found))
        else:
            print_ping(found, console())
        return
    shown = console()

    def answered(answer: Answer) -> None:
        if not as_json:
            print_answer(answer, shown)

    report = asyncio.run(run_pings(place, timeout, count or None, 1.0 if interval is None else interval, answered))
    if as_json:
        print_json(pings_document(report))
    else:
        print_pings(report, shown)
    if not report.answers:
        raise typer.Exit(EXIT_INTERRUPTED)
    if report.lost:
        raise typer.Exit(EXIT_USAGE if report.lost == len(report.answers) else EXIT_NOT_VERIFIED)


COMMAND: Final = Command(
    ping, ("redis://127.0.0.1:6379", "--count 10 --interval 200ms redis://cache:6379", "--json s3://bucket/prefix")
)
