"""`lmcache-connect ls`: the keys of a store, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from ...contract import KeyFacts, counting_left_out
from ...errors import LMCacheConnectError
from ..frame.opening import open_store
from .selection import Selection, keys_in, pages_of


@dataclass(frozen=True)
class Row:
    """A key, and what the store says of its chunk; None: it was not asked, or the chunk has gone meanwhile."""

    key: str
    facts: KeyFacts | None = None


@dataclass(frozen=True)
class ListReport:
    """How many keys were listed. `store` is a redacted URL.

    `left_out` names under the prefix cannot be keys: another program's. `is_whole`: the limit has left out no key.
    """

    store: str
    count: int
    left_out: int
    is_whole: bool
    error: Exception | None = None
    """What ended the listing before its end."""

    @property
    def ok(self) -> bool:
        """Whether the listing has come to its end."""
        return self.error is None


async def list_keys(
    url: str,
    selection: Selection,
    *,
    limit: int | None,
    facts: bool,
    on_page: Callable[[Sequence[Row]], None],
) -> ListReport:
    """Calls `on_page` with the keys, some at a time, until the last one, or `limit` of them. Holds one page.

    Raises:
        LMCacheConnectError: the store cannot be used, and no page was told.
    """
    count, is_whole = 0, True
    error: LMCacheConnectError | None = None
    with counting_left_out() as left_out:
        async with open_store(url) as connector:
            store = connector.context.remote_url.redacted()
            pages = pages_of(keys_in(connector, selection))
            try:
                async for names in pages:
                    page = names
                    if limit is not None and count + len(names) > limit:
                        page, is_whole = names[: limit - count], False
                    if page:
                        told = await connector.describe(page) if facts else [None] * len(page)
                        on_page([Row(key, one) for key, one in zip(page, told, strict=True)])
                    count += len(page)
                    if not is_whole:
                        break
            except LMCacheConnectError as failure:
                if not count:
                    raise
                error = failure
            finally:
                await _end(pages)
    return ListReport(store, count, left_out.count, is_whole, error)


async def _end(pages: AsyncIterator[list[str]]) -> None:
    close = getattr(pages, "aclose", None)
    if close is not None:
        await close()
