"""Durations, and lists of sizes and numbers, as options of a command: `250ms`, `1MiB,4MiB`, `1,8`."""

from __future__ import annotations

from typing import Final

import typer

from .options import duration_option, size_option

_A_DAY: Final = 86_400.0


def seconds(text: str) -> float:
    """The number of seconds that a text such as `5`, `250ms`, `10s`, `5m`, `2h` or `1d` means.

    Raises:
        BadParameter: it is not a duration, or 0.
    """
    given = duration_option(text)
    if given > _A_DAY:
        raise typer.BadParameter(f"{text!r}; expected more than 0, and at most a day")
    return given


def sizes(text: str) -> tuple[int, ...]:
    """The sizes in a list such as `128KiB,1MiB`, without those that are there already. Raises as `size_option` does."""
    return tuple(dict.fromkeys(size_option(each.strip()) for each in text.split(",")))


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
