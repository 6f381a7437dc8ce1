"""Sizes: numbers of bytes that text may give with a unit."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

_SIZE: Final = re.compile(r"([0-9]{1,18})(\.[0-9]{1,9})? ?([a-z]*)")
_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_WRITTEN: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


def byte_count(value: object) -> object:
    """The number of bytes that a text such as `1048576`, `512MiB`, `1.5GiB` or `2GB` means; whatever else is returned.

    `KiB`, `MiB`, `GiB` and `TiB` are powers of 1024, `kB`, `MB`, `GB` and `TB` of 1000. Upper and lower case are alike.

    Raises:
        ValueError: the text is not a size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip().lower())
    unit = _UNITS.get(match[3]) if match is not None else None
    if match is None or unit is None:
        raise ValueError("expected a number of bytes, such as 1048576, 512MiB, 1.5GiB or 2GB")
    fraction = match[2] or ""
    digits = len(fraction[1:])
    return int(match[1] + fraction[1:]) * unit // 10**digits


def size_text(nbytes: int) -> str:
    """A number of bytes as a text that `byte_count` reads as the same number, such as `512MiB`."""
    for unit, factor in _WRITTEN.items():
        if nbytes and nbytes % factor == 0:
            return f"{nbytes // factor}{unit}"
    return str(nbytes)


SIZE: Final = BeforeValidator(byte_count)
"""For options and settings of the type `int` that are bytes: text may have a unit."""

Bytes = Annotated[int, SIZE, Field(gt=0, le=1 << 50)]
