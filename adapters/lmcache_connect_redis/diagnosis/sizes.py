"""Sizes as people and redis.conf write them."""

from __future__ import annotations

from typing import Final

_UNITS: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def shown_size(nbytes: int) -> str:
    """Returns a number of bytes for people, rounded to a tenth."""
    for unit, factor in _UNITS:
        if nbytes >= factor:
            return f"{nbytes / factor:.1f}".removesuffix(".0") + f" {unit}"
    return f"{nbytes} bytes"


def conf_size(nbytes: int) -> str:
    """Returns a number of bytes as redis.conf takes it, rounded down."""
    if nbytes >= 1 << 30:
        return f"{nbytes >> 30}gb"
    return f"{nbytes >> 20}mb" if nbytes >= 1 << 20 else str(nbytes)
