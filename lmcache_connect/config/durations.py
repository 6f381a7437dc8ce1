"""Durations: numbers of seconds that text may give with a unit."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Final

from pydantic import BeforeValidator, Field

_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([a-z]+)")
_UNITS: Final = {
    "us": Decimal("0.000001"),
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
}
_WRITTEN: Final = ("d", "h", "m")


def second_count(value: object) -> object:
    """The number of seconds that a text such as `10s`, `250ms`, `5m`, `2h` or `1d` means; whatever else is returned.

    A text without a unit is returned as it is: pydantic reads a number of seconds from it. Upper and lower case are
    alike. A `timedelta` is its number of seconds.

    Raises:
        ValueError: the text is not a duration.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    match = _DURATION.fullmatch(text)
    if match is not None and match[2] in _UNITS:
        return float(Decimal(match[1]) * _UNITS[match[2]])
    try:
        float(text)
    except ValueError:
        raise ValueError("expected a number of seconds, or a duration such as 250ms, 10s, 5m, 2h or 1d") from None
    return text


def duration_text(seconds: float) -> str:
    """A number of seconds as a text that `second_count` reads as the same number, such as `250ms` or `2h`."""
    exact = Decimal(repr(float(seconds)))
    for unit in _WRITTEN:
        if exact and exact % _UNITS[unit] == 0:
            return f"{exact / _UNITS[unit]:f}".partition(".")[0] + unit
    if exact and exact < 1 and exact % _UNITS["ms"] == 0:
        return f"{int(exact / _UNITS['ms'])}ms"
    return f"{exact:f}".removesuffix(".0") + "s"


DURATION: Final = BeforeValidator(second_count)
"""For options and settings of the type `float` that are seconds: text may have a unit."""

Seconds = Annotated[float, DURATION, Field(gt=0, le=86_400, allow_inf_nan=False)]

MOST_SECONDS: Final = 10 * 365 * 86_400.0
"""The longest time that a store may be told, ten years, in seconds."""

Lifetime = Annotated[float, DURATION, Field(gt=0, le=MOST_SECONDS, allow_inf_nan=False)]
"""How long a store keeps something, in seconds: up to ten years."""
