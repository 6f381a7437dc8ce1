"""Options that several commands have, with units: sizes such as `1GiB`."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import typer

from ...config import byte_count


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


Memory: TypeAlias = Annotated[
    int | None,
    typer.Option(parser=size_option, metavar="SIZE", help="Memory for chunks, such as 2GiB. By default 1GiB."),
]
"""The parameter `memory` of commands that move chunks."""
