"""`lmcache-connect cp`, `get` and `put`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_INTERRUPTED, EXIT_NOT_VERIFIED, EXIT_TERMINATED
from ..frame.options import Memory, duration_option, rate_option
from ..frame.output import console, fail, print_json
from ..frame.store_argument import StoreOption, store_and_rest
from ..store.selection import Selection
from .bar import copy_bar
from .copying import CopyPlan, CopyReport, OnProgress, copy_chunks
from .document import copy_document, file_document
from .files import STREAM, ChunkUnreadableError, get_file, put_file
from .signals import stopping_on_signals
from .table import print_copy, print_file

_DIGITS: Final = 20
"""More than the largest dimension has; of far more, Python makes no number."""

_STORE: Final = "The store's URL; without one, that of --url, LMCACHE_CONNECT_URL or the settings file."


def cp(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[SOURCE] DESTINATION",
            help="Both stores' URLs. With one alone, the source is that of --url, LMCACHE_CONNECT_URL or the file.",
            show_default=False,
        ),
    ],
    url: Annotated[str | None, typer.Option(metavar="URL", help="The source, where it is not an argument.")] = None,
    match: Annotated[
        str | None,
        typer.Option(metavar="PREFIX|PATTERN", help="Copy only keys that begin with this, or match *, ? and [...]."),
    ] = None,
    prefix: Annotated[str | None, typer.Option(metavar="TEXT", help="Copy only keys that begin with this.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what differs at the destination. Otherwise it stays.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every chunk back from the destination, and compare it.")
    ] = False,
    rate: Annotated[
        int | None, typer.Option(parser=rate_option, metavar="RATE", help="At most so many bytes a second: 200MB/s.")
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option(
            parser=duration_option,
            metavar="TIME",
            help="Have all that is copied expire after this, such as 2h. By default, when it expires at the source.",
        ),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Note what was copied, so that a further run reads none of it again."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be copied. Moves no payload.")
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="Work on so many groups at a time.")] = 4,
    wait: Annotated[
        float,
        typer.Option(
            parser=duration_option, metavar="TIME", help="How long a store may fail before the copy ends: 30s."
        ),
    ] = 30.0,
    memory: Memory = None,
    as_json: AsJSON = False,
) -> None:
    """Copy chunks from one store into another, of any kinds. What is the same there is skipped.

    It may be interrupted at any moment: the same command goes on. The source is not changed. Chunks keep the time that
    they have left, where the destination can forget them.

    Exits with 0 if all is there, 1 if something differs, is damaged or failed, 2 if a store cannot be used.
    """
    *first, destination = arguments
    if "://" not in destination:
        raise typer.BadParameter("the scheme is missing; expected a store's URL", param_hint="'DESTINATION'")
    given = store_and_rest(first, url)
    if given.rest:
        raise typer.BadParameter("expected two URLs: the source's and the destination's", param_hint="'SOURCE'")
    if match is not None and prefix is not None:
        raise typer.BadParameter("give --match or --prefix, not both", param_hint="'--match'")
    plan = CopyPlan(
        source=given.url,
        destination=destination,
        selection=Selection(prefix) if prefix is not None else Selection.of(match or ""),
        overwrite=overwrite,
        verify=verify,
        dry_run=dry_run,
        rate=rate,
        ttl=ttl,
        memory=memory,
        parallel=parallel,
        state=state,
        wait=wait,
    )
    with copy_bar() as on_progress:
        report, code = asyncio.run(_copy(plan, on_progress))
    if as_json:
        print_json(copy_document(report))
    else:
        print_copy(report, console())
    if code or not report.ok:
        raise typer.Exit(code or EXIT_NOT_VERIFIED)


async def _copy(plan: CopyPlan, on_progress: OnProgress) -> tuple[CopyReport, int]:
    """Returns the report, and the exit code of a signal that has ended the copy; 0: there was no signal."""
    stop = asyncio.Event()
    with stopping_on_signals(stop) as received:
        report = await copy_chunks(plan, stop, on_progress)
    code = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED}
    return report, 0 if received.first is None or report.is_complete else code[received.first]


KeyAndFile = Annotated[
    list[str],
    typer.Argument(metavar="[URL] KEY FILE", help=f"{_STORE} Then the key, and the file.", show_default=False),
]


def get(
    arguments: KeyAndFile,
    url: StoreOption = None,
    npy: Annotated[bool, typer.Option("--npy", help="Write a file of numpy, with its shape and dtype.")] = False,
    memory: Memory = None,
    as_json: AsJSON = False,
) -> None:
    """Write the payload of a chunk into a file, or to stdout for the file name -.

    The file gets its name when all of it was written and verified. With - only the payload is printed.
    Exits with 0 if it was written, 1 if the key is missing or damaged, 2 if the store or file cannot be used.
    """
    store, key, file = _key_and_file(arguments, url)
    if file == STREAM and as_json:
        raise typer.BadParameter("stdout cannot have the payload as well; name a file", param_hint="'--json'")
    try:
        report = asyncio.run(get_file(store, key, file, npy=npy, memory=memory))
    except ChunkUnreadableError as error:
        fail(error, as_json, EXIT_NOT_VERIFIED)
    if as_json:
        print_json(file_document(report))
    elif file != STREAM:
        print_file(report, console())


def put(
    arguments: KeyAndFile,
    url: StoreOption = None,
    shape: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="The chunk's shape. By default one row, or that of a .npy file."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="NAME", help="Its dtype, such as bfloat16. By default uint8.")
    ] = None,
    fmt: Annotated[
        str | None, typer.Option("--format", metavar="NAME", help="Its memory format, such as KV_2LTD.")
    ] = None,
    memory: Memory = None,
    as_json: AsJSON = False,
) -> None:
    """Store a file, or stdin for the file name -, as a chunk. It replaces what was under the key.

    Exits with 0 if the store has it, 2 if the store or file cannot be used.
    """
    store, key, file = _key_and_file(arguments, url)
    report = asyncio.run(put_file(store, key, file, shape=_shape(shape), dtype=dtype, fmt=fmt, memory=memory))
    if as_json:
        print_json(file_document(report))
    else:
        print_file(report, console())


def _key_and_file(arguments: list[str], url: str | None) -> tuple[str, str, str]:
    given = store_and_rest(arguments, url)
    if len(given.rest) != 2:
        raise typer.BadParameter(
            f"expected a key and a file, and not {len(given.rest)} of them", param_hint="'KEY FILE'"
        )
    key, file = given.rest
    return given.url, key, file


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    numbers = text.replace("x", ",").replace("×", ",").split(",")
    if not all(number.strip().isdecimal() and len(number) <= _DIGITS for number in numbers):
        raise typer.BadParameter(f"{text!r}; expected whole numbers such as 2,32,256,1024", param_hint="'--shape'")
    return tuple(map(int, numbers))


COMMANDS: Final = (
    Command(
        cp,
        (
            "redis://cache:6379 s3://bucket/kv --dry-run",
            "redis://cache:6379 s3://bucket/kv --state copy.state --rate 200MB/s",
            "redis://old:6379 redis-ring://a:6379,b:6379 --match 'lc1@Llama-3.1-8B-Instruct@*' --verify",
        ),
    ),
    Command(get, ("redis://cache:6379 KEY chunk.bin", "redis://cache:6379 KEY chunk.npy --npy", "KEY - | xxd | head")),
    Command(put, ("redis://cache:6379 KEY chunk.npy", "KEY chunk.bin --shape 2,32,256,1024 --dtype bfloat16")),
)
