"""Ending a `scan` before its last key."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any


async def end_scan(names: AsyncIterator[Any]) -> None:
    """Closes what `scan` gave, so that the connector lets go of what it holds for it. Idempotent.

    A connector may give an iterator that cannot be closed: that one is left alone.
    """
    if isinstance(names, AsyncGenerator):
        await names.aclose()
