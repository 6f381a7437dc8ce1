"""Names that may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def similar_name(name: str, known: Iterable[str]) -> str:
    """The most similar one of the known names; "" where none is similar."""
    return next(iter(difflib.get_close_matches(name, known, 1)), "")


def meant(name: str, known: Iterable[str]) -> str:
    """What an error adds where a name is like a known one: `; did you mean 'retries'?`, or ""."""
    similar = similar_name(name, known)
    return f"; did you mean {similar!r}?" if similar else ""
