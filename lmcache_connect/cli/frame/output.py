"""What a command prints: a console for people, one JSON document for programs, and errors and warnings on stderr.

No output holds a secret that the process knows.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final, NoReturn

import typer
from rich.console import Console

from ...known_secrets import clean
from .exits import EXIT_USAGE

_PIPED_COLUMNS: Final = 10_000
"""A line that another program reads is not wrapped."""


def console() -> Console:
    """A console on stdout. Piped, it prints plain lines of any length, unless the variable COLUMNS says how long.

    It prints texts as they are: brackets are not markup, and numbers get no colour.
    """
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PIPED_COLUMNS
    return _Console(width=width, highlight=False, markup=False, emoji=False)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Lets `main` end the command; rich would with the code 1."""
        raise BrokenPipeError


def print_json(document: dict[str, Any]) -> None:
    """Prints the one document of a command with `--json`."""
    typer.echo(clean(json.dumps(document, indent=2)))


def warn(text: str) -> None:
    """Prints a warning, on stderr."""
    typer.echo(clean(f"warning: {text}"), err=True)


def error_document(error: Exception) -> dict[str, Any]:
    """A command that failed."""
    return {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}


def fail(error: Exception, as_json: bool, code: int = EXIT_USAGE) -> NoReturn:
    """Ends the command with `code`. Prints the error in one line on stderr, and with `as_json` as a document on stdout.

    There is no traceback, because the program itself did not fail.
    """
    if as_json:
        print_json(error_document(error))
    typer.echo(clean("\n".join((f"error: {error}", *getattr(error, "__notes__", ())))), err=True)
    raise typer.Exit(code)


def escaped(text: str) -> str:
    """The text with what a terminal would not print as it is, such as control characters, as `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
