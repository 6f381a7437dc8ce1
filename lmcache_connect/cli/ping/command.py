"""`lmcache-connect ping`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.output import console, print_json
from ..frame.store_argument import StoreArgument, StoreOption, store_url
from .document import ping_document
from .ping import run_ping
from .table import print_ping


def ping(
    store: StoreArgument = None,
    url: StoreOption = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=3600, metavar="S", help="Seconds for connecting and all calls together.")
    ] = 5.0,
    as_json: AsJSON = False,
) -> None:
    """Connect to a store and measure how fast it answers. Changes nothing in the store.

    Of a store with several servers, those that do not answer are named. Exits with 0 if the store answers, 2 if not.
    """
    found = asyncio.run(run_ping(store_url(store, url), timeout))
    if as_json:
        print_json(ping_document(found))
    else:
        print_ping(found, console())


COMMAND: Final = Command(ping, ("redis://127.0.0.1:6379", "--json s3://bucket/prefix"))
