"""Clearing a store by prefix, a bounded number of keys at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..contract import RemoteConnector, counting_left_out, end_scan
from ..errors import InvalidArgumentError, StoreError

_PAGE: Final = 512
"""Keys that are held, and removed, at a time."""

CLEAR_LIMIT: Final = 100_000
"""The most keys that one call looks at by default."""


@dataclass
class Clearing:
    """How many keys were found under a prefix, and removed.

    `outdated` names hold what an earlier release stored under such keys: chunks, and parts of chunks. They are counted
    here alone, and removed. `left_out` names under the prefix are none of our keys' and stay. `is_complete`: there are
    none of those, and the limit left out no key. `failed` keys could not be removed. `error`: the message of the
    first failure.
    """

    matched: int = 0
    removed: int = 0
    failed: int = 0
    outdated: int = 0
    left_out: int = 0
    is_complete: bool = False
    error: str | None = None


async def clear(
    connector: RemoteConnector,
    prefix: str,
    *,
    dry_run: bool = False,
    limit: int = CLEAR_LIMIT,
    on_page: Callable[[int], None] = lambda _: None,
) -> Clearing:
    """Removes at most `limit` keys that start with `prefix`, then what an earlier release stored under such keys.

    With `dry_run`, only counts them. `on_page` is told how many more keys were looked at, and removed.

    A hot cache in front of the store drops every such key, also those that the store does not list any more.

    Keys that are written meanwhile may stay. A removal that fails is counted, and the call goes on. A listing that
    fails ends the call. A call that is cancelled leaves the rest in place.

    Raises:
        InvalidArgumentError: the limit is below 1.
        StoreError, UnsupportedOperationError: the store cannot be listed, or cannot remove keys.
    """
    if limit < 1:
        raise InvalidArgumentError("limit", f"{limit} is below 1")
    found = Clearing()
    cache = None if dry_run else connector.find_hot_cache()
    with counting_left_out() as left_out:
        try:
            if cache is not None:
                cache.clear(prefix)
            await _clear(connector, prefix, dry_run, limit, found, on_page)
            if found.is_complete:
                await _clear_outdated(connector, prefix, dry_run, limit - found.matched, found)
        finally:
            if cache is not None:
                cache.clear(prefix)  # what was fetched meanwhile may be gone now
    found.left_out = left_out.count
    found.is_complete = found.is_complete and not left_out.count
    return found


async def _clear(
    connector: RemoteConnector,
    prefix: str,
    dry_run: bool,
    limit: int,
    found: Clearing,
    on_page: Callable[[int], None],
) -> None:
    names = connector.scan(prefix)
    try:
        page: list[str] = []
        async for name in names:
            if not name.startswith(prefix):  # from a careless connector: such a key must stay
                continue
            if found.matched == limit:
                break
            found.matched += 1
            page.append(name)
            if len(page) == _PAGE:
                if not dry_run:
                    await _remove(connector, page, found)
                on_page(len(page))
                page = []
        else:
            found.is_complete = True
        if page and not dry_run:
            await _remove(connector, page, found)
        on_page(len(page))
    finally:
        await end_scan(names)


async def _clear_outdated(connector: RemoteConnector, prefix: str, dry_run: bool, limit: int, found: Clearing) -> None:
    names = connector.scan_outdated(prefix)
    try:
        page: list[str] = []
        async for name in names:
            if found.outdated == limit:
                found.is_complete = False
                break
            found.outdated += 1
            page.append(name)
            if len(page) == _PAGE and not dry_run:
                await connector.remove_outdated(page)
                page = []
        if page and not dry_run:
            await connector.remove_outdated(page)
    finally:
        await end_scan(names)


async def _remove(connector: RemoteConnector, page: list[str], found: Clearing) -> None:
    try:
        gone = sum(await connector.batched_remove(page))
    except StoreError as error:
        gone = 0
        found.error = found.error or str(error)
    found.removed += gone
    found.failed += len(page) - gone
