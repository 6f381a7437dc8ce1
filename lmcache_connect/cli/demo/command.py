"""`lmcache-connect demo`."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from ...errors import MissingExtraError
from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_NOT_VERIFIED
from ..frame.output import console, print_json, warn
from ..frame.progress import OnProgress, progress_bar
from ..frame.room import Anyway
from ..frame.store_argument import URL_SHAPE, StoreOption, given_url
from .demo import run_demo
from .document import demo_document
from .table import print_demo
from .workload import Workload, new_model_name


def demo(
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="URL",
            help=f"The store, such as {URL_SHAPE}. Without it, the demo starts a Valkey server of its own.",
            show_default=False,
        ),
    ] = None,
    url: StoreOption = None,
    chunks: Annotated[
        int, typer.Option(min=1, max=256, metavar="N", help="The number of full chunks, of 32 MiB each.")
    ] = 8,
    as_json: AsJSON = False,
    keep: Annotated[bool, typer.Option("--keep", help="Do not remove the chunks from the store. Needs a URL.")] = False,
    anyway: Anyway = False,
    seed: Annotated[int, typer.Option(metavar="N", help="The seed of the random bytes in the chunks.")] = 0,
    layers: Annotated[int, typer.Option(min=1, max=32, hidden=True)] = 32,
) -> None:
    """Put chunks of a KV cache into a store, get them back, compare every byte, and show the results.

    The demo uses its own keys, does not touch any others, and removes its own at the end. Exits with 0 if every byte
    was right, 1 if not, 2 if the store could not be used.
    """
    given = given_url(store, url)
    if keep and given is None:
        raise typer.BadParameter(
            "it needs a URL, because a store that the demo starts is deleted at its end", param_hint="'--keep'"
        )
    workload = Workload.llama(new_model_name(), chunks=chunks, layers=layers, seed=seed)
    with progress_bar(workload.transfer_bytes) as on_progress, _store(given, on_progress) as (store_url, server):
        found = asyncio.run(
            run_demo(
                store_url, workload, keep=keep, anyway=anyway, server=server, on_progress=on_progress, on_warning=warn
            )
        )
    if as_json:
        print_json(demo_document(found))
    else:
        print_demo(found, console())
    if not found.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


COMMAND: Final = Command(
    demo, ("", "redis://127.0.0.1:6379", "--chunks 64 redis://:password@cache:6379/1", "--json s3://bucket/prefix")
)


@contextlib.contextmanager
def _store(url: str | None, on_progress: OnProgress) -> Iterator[tuple[str, str | None]]:
    """The given URL and None. Without a URL: that of a Valkey server, which runs in the `with` block, and its name."""
    if url is not None:
        yield url, None
        return
    on_progress("starting a Valkey server", 0)
    try:
        from ...testing import ValkeyServer
    except ModuleNotFoundError as error:
        raise MissingExtraError("the demo's own store", error.name or "?", "testing") from error
    # With a password, because every user of the machine can connect to a port on loopback.
    with ValkeyServer(password=secrets.token_urlsafe(16)) as server:
        yield server.url("valkey"), server.name
