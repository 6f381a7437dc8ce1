"""`lmcache-connect rm`: removes keys."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from ...errors import InvalidKeyError
from ...keys import check_key_string
from ..frame.opening import open_store
from .selection import PAGE


@dataclass(frozen=True)
class RemovalReport:
    """What became of the keys that were to be removed. `store` is a redacted URL.

    `invalid` are texts that no key can be. `failed` keys may still be there.
    """

    store: str
    removed: tuple[str, ...]
    missing: tuple[str, ...]
    invalid: tuple[str, ...]
    failed: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether none of the keys is there now, and each was one."""
        return not self.invalid and not self.failed


async def remove_keys(url: str, keys: Iterable[str]) -> RemovalReport:
    """Removes keys from a store, and tells which were there.

    Raises:
        LMCacheConnectError: the store cannot be used. Some of the keys may be removed.
    """
    removed: list[str] = []
    missing: list[str] = []
    invalid: list[str] = []
    failed: list[str] = []
    async with open_store(url) as connector:
        names = iter(keys)
        while page := list(islice(names, PAGE)):
            wanted: list[str] = []
            for key in page:
                try:
                    wanted.append(check_key_string(key))
                except InvalidKeyError:
                    invalid.append(key)
            if not wanted:
                continue
            # A chunk that is there in part, such as one half of LMCache's two values, is to go as well.
            found = await connector.describe(wanted)
            gone = await connector.batched_remove(wanted)
            for key, facts, is_gone in zip(wanted, found, gone, strict=True):
                (failed if not is_gone else missing if facts is None else removed).append(key)
        store = connector.context.remote_url.redacted()
    return RemovalReport(store, tuple(removed), tuple(missing), tuple(invalid), tuple(failed))
