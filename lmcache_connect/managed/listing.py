"""`Listing`: which names in a store are keys, of those that a connector has listed."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Final

import anyio.lowlevel

from ..contract import RemoteConnector, counting_left_out, leave_out
from ..errors import InvalidKeyError
from ..keys import check_key_string, key_strings
from ..observability import event
from .arguments import AT_ONCE

_PAGE: Final = 1000
"""Names of a scan that are fetched under one deadline."""

_ADVICE: Final = "a listing has names that no key has: other programs write under this prefix; use one of its own"


class Listing:
    """Takes names from a connector that are keys, and leaves out the others. It tells once that there were some."""

    def __init__(self, store: str) -> None:
        """`store` is the store's address, for the log."""
        self._store = store
        self._has_told = False

    async def whole(self, connector: RemoteConnector) -> list[str]:
        """Returns every key that the connector lists."""
        with counting_left_out() as left_out:
            # Third-party connectors are known to answer None for "no keys".
            names = await _keys_among(list(await connector.list() or ()))
        self._tell(left_out.count)
        return names

    async def page(self, names: AsyncIterator[str], are_keys: bool) -> tuple[list[str], bool]:
        """Returns the next names, at most a thousand, and whether those were the last.

        Where they are to be keys (`are_keys`), the others are left out.
        """
        found: list[str] = []
        is_last = True
        with counting_left_out() as left_out:
            async for name in names:
                found.append(name)
                if len(found) == _PAGE:
                    is_last = False
                    break
            if are_keys:
                found = await _keys_among(found)
        self._tell(left_out.count)
        return found, is_last

    def _tell(self, left_out: int) -> None:
        if left_out and not self._has_told:
            self._has_told = True
            event(logging.WARNING, "names_left_out", store=self._store, names=left_out, advice=_ADVICE)


async def _keys_among(names: list[str]) -> list[str]:
    """Returns the names that a call takes as keys. The others are left out, and counted."""
    found: list[str] = []
    for start in range(0, len(names), AT_ONCE):
        if start:
            await anyio.lowlevel.checkpoint()
        piece = names[start : start + AT_ONCE]
        try:
            found += key_strings(piece)
        except InvalidKeyError:
            taken = [name for name in piece if _is_key(name)]
            leave_out(len(piece) - len(taken))
            found += taken
    return found


def _is_key(name: object) -> bool:
    try:
        check_key_string(name)
    except InvalidKeyError:
        return False
    return True
