"""Options that several commands have, with units: sizes such as `1GiB`, durations such as `10s`."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from ...config import MOST_SECONDS, byte_count, second_count


def size_option(text: str) -> int:
    """The bytes that an option such as `512MiB` means.

    Raises:
        BadParameter: it is not a size above 0.
    """
    if isinstance(text, int):  # a default
        return text
    try:
        nbytes: Any = byte_count(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if nbytes <= 0:
        raise typer.BadParameter(f"{text!r} is not above 0")
    return int(nbytes)


def rate_option(text: str) -> int:
    """The bytes in a second that an option such as `200MB/s` means.

    Raises:
        BadParameter: it is not a rate above 0.
    """
    return size_option(text if isinstance(text, int) else text.strip().removesuffix("/s"))


def duration_option(text: str) -> float:
    """The seconds that an option such as `2h` means.

    Raises:
        BadParameter: it is not a duration above 0, or longer than ten years.
    """
    try:
        seconds = float(second_count(text))  # type: ignore[arg-type]  # a number, or a text that is one
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}; {error}") from None
    if not 0 < seconds <= MOST_SECONDS:  # a store may refuse more, behind what was written
        raise typer.BadParameter(f"{text!r}; expected more than 0, and at most ten years")
    return seconds


Memory: TypeAlias = Annotated[
    int | None,
    typer.Option(parser=size_option, metavar="SIZE", help="Memory for chunks, such as 2GiB. By default 1GiB."),
]
"""The parameter `memory` of commands that move chunks."""
