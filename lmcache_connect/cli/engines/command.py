"""`lmcache-connect engines`."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from ...config import ConnectorConfig
from ..frame.command import AsJSON, Command
from ..frame.output import console, print_json
from ..frame.store_argument import StoreArgument, StoreOption, given_url
from .document import engines_document
from .engines import Facts, describe_engines
from .table import print_engines


def engines(
    store: StoreArgument = None,
    url: StoreOption = None,
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="The model's commit or date.")] = None,
    dtype: Annotated[str | None, typer.Option(metavar="NAME", help="The KV cache's dtype, for LMCache.")] = None,
    kv_layout: Annotated[str | None, typer.Option(metavar="NAME", help="A name for its layout, for LMCache.")] = None,
    tenant: Annotated[str | None, typer.Option(metavar="NAME", help="The tenant, which every key shows.")] = None,
    as_json: AsJSON = False,
) -> None:
    """Show which engines are installed, and what to paste into their configuration for a store.

    The texts hold no secret: a password is read from the environment. Connects to nothing.
    Exits with 0 if the URL is understood, 2 if not.
    """
    given = given_url(store, url)
    if given is None and (configured := ConnectorConfig.load().url) is not None:
        given = configured.get_secret_value()
    found = asyncio.run(describe_engines(given, Facts(revision, dtype, kv_layout, tenant)))
    if as_json:
        print_json(engines_document(found))
    else:
        print_engines(found, console())


COMMAND: Final = Command(engines, ("", "redis://cache:6379", "--revision main --tenant blue redis://cache:6379"))
