"""`lmcache-connect ls`, `inspect`, `rm`, `clear` and `du`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Annotated, Final

import typer

from ..frame.command import AsJSON, Command
from ..frame.exits import EXIT_NOT_VERIFIED
from ..frame.options import Memory
from ..frame.output import console, fail, print_json, warn
from ..frame.progress import progress_bar
from ..frame.store_argument import StoreOption, store_and_rest
from .clear import Survey, clear_prefix
from .document import clear_document, inspect_document, removal_document, usage_document
from .du import By, measure_usage
from .inspection import inspect_key
from .listing_writer import ListingWriter, Style
from .ls import list_keys
from .rm import remove_keys
from .selection import Selection
from .table import print_clearing, print_inspection, print_removal, print_usage, told_survey

_STORE: Final = "The store's URL; without one, that of --url, LMCACHE_CONNECT_URL or the settings file."

Selected = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[URL] [PREFIX|PATTERN]",
        help=f"{_STORE} Then what the keys begin with, or a pattern with *, ? or [...].",
        show_default=False,
    ),
]


def ls(
    arguments: Selected = None,
    url: StoreOption = None,
    long: Annotated[bool, typer.Option("--long", "-l", help="Show sizes, times to live, and ages.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after so many keys.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many keys there are.")] = False,
    lines: Annotated[bool, typer.Option("--jsonl", help="Print one JSON document for each key, on a line.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List the keys of a store as they come, in no order. Changes nothing in the store.

    Control characters are shown as \\x1b. Exits with 0 if all was listed, 1 if the store failed on the way, 2 if it
    cannot be used.
    """
    given = store_and_rest(arguments, url)
    selection = Selection.of(_at_most_one(given.rest, "prefix or pattern"))
    style = Style.COUNT if count else Style.LINES if lines else Style.LONG if long else Style.NAMES
    if as_json:
        style = Style.JSON
    facts = long and not count
    writer = ListingWriter(style, facts=facts)
    report = asyncio.run(list_keys(given.url, selection, limit=limit, facts=facts, on_page=writer.page))
    writer.end(report)
    if report.left_out:
        warn(f"{report.left_out} names under the prefix cannot be keys, and were left out")
    if report.error is not None:
        fail(report.error, as_json=False, code=EXIT_NOT_VERIFIED)


def inspect(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[URL] KEY", help=f"{_STORE} Then the key.", show_default=False)
    ],
    url: StoreOption = None,
    payload: Annotated[
        bool, typer.Option("--payload/--no-payload", help="Read the payload and verify it, or only look at its record.")
    ] = True,
    memory: Memory = None,
    as_json: AsJSON = False,
) -> None:
    """Show what a store holds under a key, and whether it is whole. Changes nothing, and removes no damaged record.

    Exits with 0 if the record is whole, 1 if it is damaged or missing, 2 if the store cannot be used.
    """
    given = store_and_rest(arguments, url)
    key = _exactly_one(given.rest, "KEY")
    report = asyncio.run(inspect_key(given.url, key, payload=payload, memory=memory))
    if as_json:
        print_json(inspect_document(report))
    else:
        print_inspection(report, console())
    if not report.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def rm(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL] KEY...", help=f"{_STORE} Then the keys.", show_default=False),
    ] = None,
    url: StoreOption = None,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read keys from stdin as well, one on a line.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="A key that is not there is no failure.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Name each key that was removed.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Remove keys from a store.

    Exits with 0 if all of them were there and are removed, 1 if not, 2 if the store cannot be used.
    """
    given = store_and_rest(arguments, url)
    if not given.rest and not stdin:
        raise typer.BadParameter("no key is given; name keys, or use --stdin", param_hint="'KEY'")
    report = asyncio.run(remove_keys(given.url, _keys(given.rest, stdin)))
    ok = report.is_done and (force or not report.missing)
    if as_json:
        print_json(removal_document(report, ok=ok))
    else:
        print_removal(report, console(), verbose=verbose)
    if not ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def clear(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[URL] PREFIX", help=f"{_STORE} Then what the keys begin with.", show_default=False),
    ] = None,
    url: StoreOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove every key, in place of those with a prefix.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Remove all keys that begin with a prefix, after showing how many there are, and how large.

    Asks on a terminal; elsewhere it needs --yes. Keys of other prefixes and of other programs stay.
    Exits with 0 if they are removed, 1 if some are not or you said no, 2 if the store cannot be used.
    """
    given = store_and_rest(arguments, url)
    if everything == bool(given.rest):
        raise typer.BadParameter("give a prefix, or --all for every key, and not both", param_hint="'PREFIX'")
    prefix = "" if everything else _exactly_one(given.rest, "PREFIX")
    if not prefix and not everything:
        raise typer.BadParameter("it is empty, which means every key; use --all for that", param_hint="'PREFIX'")
    if not (dry_run or yes) and (as_json or not (sys.stdin.isatty() and sys.stderr.isatty())):
        raise typer.BadParameter("there is nobody to ask; add --yes, or --dry-run to look first", param_hint="'--yes'")
    refused = False

    def confirm(survey: Survey) -> bool:
        nonlocal refused
        if dry_run or yes:
            return yes and not dry_run
        typer.echo(told_survey(survey), err=True)
        refused = not typer.confirm("Remove them?", err=True)
        return not refused

    with progress_bar(None, "things") as on_progress:
        report = asyncio.run(clear_prefix(given.url, prefix, confirm, on_progress))
    if as_json:
        print_json(clear_document(report))
    else:
        console().print(told_survey(report.survey), soft_wrap=True)
        print_clearing(report, console())
    if refused or not report.ok:
        raise typer.Exit(EXIT_NOT_VERIFIED)


def du(
    arguments: Selected = None,
    url: StoreOption = None,
    by: Annotated[By, typer.Option(help="Add up by what keys begin with, by the model, or by the tenant.")] = By.PREFIX,
    depth: Annotated[
        int, typer.Option(min=1, max=64, metavar="N", help="For prefixes: how many parts, which end in @, / or :.")
    ] = 1,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Show so many of the largest groups.")] = 20,
    as_json: AsJSON = False,
) -> None:
    """Show what takes how much of a store: by prefix, model or tenant. Changes nothing in the store.

    On Redis, sizes are the server's memory. Exits with 0 if all was counted, 2 if the store cannot be used.
    """
    given = store_and_rest(arguments, url)
    selection = Selection.of(_at_most_one(given.rest, "prefix or pattern"))
    with progress_bar(None, "things") as on_progress:
        counting = measure_usage(
            given.url, selection, by=by, depth=depth, on_progress=lambda done: on_progress("counting", done)
        )
        report = asyncio.run(counting)
    if as_json:
        print_json(usage_document(report))
    else:
        print_usage(report, console(), top)


def _keys(given: tuple[str, ...], stdin: bool) -> Iterator[str]:
    yield from given
    if stdin:
        for line in sys.stdin:
            if key := line.rstrip("\r\n"):
                yield key


def _at_most_one(rest: tuple[str, ...], what: str) -> str:
    if len(rest) > 1:
        raise typer.BadParameter(f"{len(rest)} are given; expected one {what}", param_hint="'PREFIX|PATTERN'")
    return rest[0] if rest else ""


def _exactly_one(rest: tuple[str, ...], name: str) -> str:
    if len(rest) != 1:
        given = f"{len(rest)} are given" if rest else "it is missing"
        raise typer.BadParameter(f"{given}; expected one, after the store's URL", param_hint=f"'{name}'")
    return rest[0]


COMMANDS: Final = (
    Command(
        ls,
        (
            "redis://cache:6379",
            "redis://cache:6379 lc1@Llama-3.1-8B-Instruct@ -l",
            "s3://bucket/prefix '*@bfloat16' --limit 20",
            "--count",
        ),
    ),
    Command(inspect, ("redis://cache:6379 'lc1@Llama-3.1-8B-Instruct@acme@d6066f74@5f1c'", "KEY --no-payload --json")),
    Command(rm, ("redis://cache:6379 KEY OTHER_KEY", "redis://cache:6379 --stdin < keys.txt")),
    Command(
        clear,
        (
            "redis://cache:6379 lc1@Llama-3.1-8B-Instruct@acme@ --dry-run",
            "redis://cache:6379 lc1@Llama-3.1-8B-Instruct@ --yes",
        ),
    ),
    Command(du, ("redis://cache:6379 --by model", "s3://bucket/prefix lc1@ --depth 3", "--by tenant --json")),
)
