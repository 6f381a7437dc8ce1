"""`Selection`: which keys of a store a command is about."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Self

from ...contract import end_scan
from ...managed import ManagedConnector

_WILDCARDS = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Selection:
    """The keys that begin with `prefix`, and match `pattern` where there is one."""

    prefix: str = ""
    pattern: str = ""
    _matches: re.Pattern[str] | None = field(default=None, compare=False)

    @classmethod
    def of(cls, text: str) -> Self:
        """The keys that begin with `text`. With `*`, `?` or `[...]` in it, it is a pattern for the whole key."""
        wildcard = _WILDCARDS.search(text)
        if wildcard is None:
            return cls(text)
        return cls(text[: wildcard.start()], text, re.compile(fnmatch.translate(text)))

    def __contains__(self, key: str) -> bool:
        return key.startswith(self.prefix) and (self._matches is None or self._matches.match(key) is not None)

    def __str__(self) -> str:
        return self.pattern or self.prefix


async def keys_in(connector: ManagedConnector, selection: Selection) -> AsyncIterator[str]:
    """Yields the keys of a store that are in the selection, in no order."""
    names = connector.scan(selection.prefix)
    try:
        async for name in names:
            if name in selection:
                yield name
    finally:
        await end_scan(names)


PAGE = 250
"""Keys that are looked at together."""


async def pages_of(names: AsyncIterator[str], size: int = PAGE) -> AsyncIterator[list[str]]:
    """Yields names in lists of `size`; the last one may be shorter."""
    page: list[str] = []
    try:
        async for name in names:
            page.append(name)
            if len(page) == size:
                yield page
                page = []
        if page:
            yield page
    finally:
        await end_scan(names)
