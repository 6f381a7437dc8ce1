"""`span`: a number of seconds for people."""

from __future__ import annotations

import math
from typing import Final

_UNITS: Final = ((86_400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def span(seconds: float | None) -> str:
    """Seconds in their two largest units, such as `2h 5m`; `never` for infinity, and `-` for None."""
    if seconds is None:
        return "-"
    if math.isinf(seconds):
        return "never"
    if 0 < seconds < 1:
        return f"{max(1, round(seconds * 1000))}ms"
    left = round(seconds)
    parts: list[str] = []
    for length, unit in _UNITS:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return " ".join(filter(None, parts[:2])) or "0s"
