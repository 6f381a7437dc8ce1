"""`lmcache-connect soak`."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_INTERRUPTED, EXIT_NOT_VERIFIED, EXIT_TERMINATED
from ..frame.options import size_option
from ..frame.output import console, print_json, warn
from ..frame.progress import OnProgress, progress_bar
from ..frame.room import Anyway
from ..frame.store_argument import StoreArgument, StoreOption, given_url, store_url
from .document import soak_document
from .place import SERVERS, Place, own_servers, users_store
from .plot import check_plot, plot_soak
from .report import SoakReport
from .soak import Load, run_soak
from .table import print_soak

_LEAST_BYTES: Final = 64 << 10


def soak(
    store: StoreArgument = None,
    url: StoreOption = None,
    minutes: Annotated[float, typer.Option(min=0.01, max=1440, metavar="N", help="How long to load the store.")] = 1,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Break the way to the store, and servers of --server, again and again.")
    ] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="KIND", help=f"Start servers for the run instead: {', '.join(SERVERS)}."),
    ] = None,
    tasks: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="Tasks that call at the same time.")] = 8,
    largest: Annotated[
        int,
        typer.Option(
            parser=size_option, metavar="SIZE", help="The largest chunk, at least 64KiB.", show_default="32MiB"
        ),
    ] = 32 << 20,
    store_bytes: Annotated[
        int,
        typer.Option(
            "--store-bytes",
            parser=size_option,
            metavar="SIZE",
            help="The most bytes in the store at a time.",
            show_default="1GiB",
        ),
    ] = 1 << 30,
    recovery: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="S",
            help="Exit with 1 where full throughput takes more seconds to return after a fault.",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the run into a .png or .svg. Needs the extra plot.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="The seed of all choices. Without it: a new one.")
    ] = None,
    anyway: Anyway = False,
    as_json: AsJSON = False,
) -> None:
    """Load a store with puts, gets, look-ups and removals for a while, and verify every value and every deadline.

    Chunks of 1 KiB to 32 MiB go to keys of the run's own, which are removed at the end. With --chaos, connections go
    through a proxy on this machine that resets, stalls, slows and cuts them. The store itself is not harmed. With
    --server, servers are started, and with --chaos killed, stopped, restarted and failed over as well.
    Ctrl-C ends the run and shows what it has found so far. Exits with 0 if all is well, 1 if something was
    wrong, late or left behind, 2 if the store cannot be used.
    """
    if server is not None and server not in SERVERS:
        raise typer.BadParameter(f"{server!r}; expected {', '.join(SERVERS)}", param_hint="'--server'")
    if server is not None and given_url(store, url) is not None:
        raise typer.BadParameter("a store is named as well; give one of them", param_hint="'--server'")
    if largest < _LEAST_BYTES or store_bytes < largest:
        raise typer.BadParameter("expected at least 64KiB, and not more than --store-bytes", param_hint="'--largest'")
    if plot is not None:
        check_plot(plot)
    chosen = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    load = Load(minutes * 60, chosen, tasks, largest, store_bytes, recovery, anyway=anyway)
    with progress_bar(round(load.seconds)) as on_progress:
        on_progress("starting", 0)
        where: AbstractContextManager[Place]
        if server is not None:
            where = own_servers(server, chaos, random.Random(f"{chosen}/servers"))
        else:
            where = users_store(store_url(store, url), chaos)
        with where as place:
            found, code = asyncio.run(_run(place, load, on_progress))
    if plot is not None:
        plot_soak(found, plot)
    if as_json:
        print_json(soak_document(found))
    else:
        print_soak(found, console())
    if code:
        raise typer.Exit(code)
    if not found.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


async def _run(place: Place, load: Load, on_progress: OnProgress) -> tuple[SoakReport, int]:
    """The report, and the exit code of the signal that ended the run early; 0 where there was not one."""
    stop = asyncio.Event()
    code = 0

    def end(with_code: int) -> None:
        nonlocal code
        code = with_code
        stop.set()
        # The next one ends the program at once, as if this one had not been handled.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, end, EXIT_INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, end, EXIT_TERMINATED)
    shown = "load"

    def progress(text: str, passed: int) -> None:
        nonlocal shown
        if text or not passed:
            shown = text or "load"
        on_progress(shown, passed)

    found = await run_soak(place, load, stop=stop, on_progress=progress, on_warning=warn)
    return found, code


COMMAND: Final = Command(
    soak,
    (
        "redis://127.0.0.1:6379 --minutes 10",
        "--chaos --plot soak.png rediss://:password@cache:6379",
        "--server cluster --chaos --minutes 10 --seed 7",
    ),
)
