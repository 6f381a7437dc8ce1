"""`lmcache-connect bench`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_NOT_VERIFIED
from ..frame.options import size_option
from ..frame.output import console, print_json, warn
from ..frame.progress import progress_bar
from ..frame.quantities import counts, seconds, sizes
from ..frame.room import Anyway
from ..frame.store_argument import StoreArgument, StoreOption, store_url
from .bench import Bounds, run_bench
from .document import bench_document
from .plot import check_plot, write_plot
from .table import print_bench

_TOKEN_BYTES: Final = 512


def bench(
    store: StoreArgument = None,
    url: StoreOption = None,
    against: Annotated[
        str | None, typer.Option(metavar="URL", help="Another store, measured in turn with the first one.")
    ] = None,
    chunk_sizes: Annotated[
        str, typer.Option("--sizes", metavar="SIZES", help="The sizes of the chunks.")
    ] = "128KiB,1MiB,4MiB,32MiB",
    concurrency: Annotated[str, typer.Option(metavar="NUMBERS", help="How many single calls are made at a time.")] = (
        "1,8,32"
    ),
    max_bytes: Annotated[
        int,
        typer.Option(
            parser=size_option, metavar="SIZE", help="The most that is put and got in all.", show_default="2GiB"
        ),
    ] = 2 << 30,
    held: Annotated[
        int,
        typer.Option(
            parser=size_option, metavar="SIZE", help="The most that lies in the store at a time.", show_default="512MiB"
        ),
    ] = 512 << 20,
    rounds: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Rounds, of which rates are medians.")] = 3,
    cell: Annotated[
        float,
        typer.Option(
            "--seconds", parser=seconds, metavar="TIME", help="The longest that one row measures.", show_default="5s"
        ),
    ] = 5.0,
    timeout: Annotated[
        float, typer.Option(parser=seconds, metavar="TIME", help="The deadline of one call.", show_default="30s")
    ] = 30.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a picture: a .png or .svg. Needs the extra plot.")
    ] = None,
    anyway: Anyway = False,
    as_json: AsJSON = False,
) -> None:
    """Measure puts, gets and look-ups of a store, by size and concurrency, single and in batches.

    Every chunk that comes back is compared. The keys begin with lmcache-connect-bench, expire where the store can do
    that, and are removed. Exits with 0 if all came back right, 1 if not, 2 if the store could not be used.
    """
    chosen = sizes(chunk_sizes)
    if any(nbytes % _TOKEN_BYTES for nbytes in chosen):
        raise typer.BadParameter(f"{chunk_sizes!r}; expected multiples of {_TOKEN_BYTES} bytes", param_hint="'--sizes'")
    if plot is not None:
        check_plot(plot)
    with progress_bar(max_bytes * (1 if against is None else 2)) as on_progress:
        found = asyncio.run(
            run_bench(
                store_url(store, url),
                against=against,
                sizes=chosen,
                concurrencies=counts(concurrency),
                bounds=Bounds(max_bytes, held, rounds, cell),
                timeout=timeout,
                anyway=anyway,
                on_progress=on_progress,
                on_warning=warn,
            )
        )
    if plot is not None:
        write_plot(found, plot)
    if as_json:
        print_json(bench_document(found))
    else:
        print_bench(found, console())
    if not found.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


COMMAND: Final = Command(
    bench,
    (
        "redis://cache:6379",
        "--sizes 1MiB,4MiB --concurrency 1,16 --plot bench.png redis://cache:6379",
        "redis://cache:6379 --against s3://bucket/prefix --json",
    ),
)
