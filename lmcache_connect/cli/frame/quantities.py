"""Sizes, durations and lists of them, as options of a command: `512MiB`, `250ms`, `1,8,32`. For typer's `parser`."""

from __future__ import annotations

import re
from typing import Final

import typer

from ...config import byte_count

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|h|d|)")
_SECONDS: Final = {"ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def nbytes(text: str) -> int:
    """The number of bytes that a text such as `512MiB` means.

    Raises:
        BadParameter: it is not a size, or 0.
    """
    try:
        count = byte_count(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}; {error}") from None
    if not isinstance(count, int) or count <= 0:
        raise typer.BadParameter(f"{text!r}; expected more than 0 bytes")
    return count


def seconds(text: str) -> float:
    """The number of seconds that a text such as `5`, `250ms`, `10s`, `5m`, `2h` or `1d` means.

    Raises:
        BadParameter: it is not a duration, or 0.
    """
    found = _DURATION.fullmatch(str(text).strip().lower())
    given = 0.0 if found is None else float(found[1]) * _SECONDS[found[2]]
    if not 0 < given <= 86_400:
        raise typer.BadParameter(f"{text!r}; expected a duration of up to a day, such as 250ms, 10s, 5m or 2h")
    return given


def nbytes_each(text: str) -> tuple[int, ...]:
    """The sizes in a list such as `128KiB,1MiB`, without those that are there already. Raises as `nbytes` does."""
    return tuple(dict.fromkeys(nbytes(each) for each in text.split(",")))


def counts(text: str) -> tuple[int, ...]:
    """The numbers in a list such as `1,8,32`.

    Raises:
        BadParameter: one of them is not a number from 1 to 1024.
    """
    found: list[int] = []
    for each in text.split(","):
        word = each.strip()
        if not (word.isascii() and word.isdigit() and len(word) <= 4 and 1 <= int(word) <= 1024):
            raise typer.BadParameter(f"{text!r}; expected numbers from 1 to 1024, such as 1,8,32")
        found.append(int(word))
    return tuple(dict.fromkeys(found))
