"""`Listing`: the names in a bucket that begin with a prefix, a page at a time, as long as the server gets on."""

from __future__ import annotations

from typing import Final

from lmcache_connect.errors import StoreProtocolError

from .bucket import Bucket

_MOST_EMPTY: Final = 1000
"""Pages without a name that may follow each other. A server may skip so much that was deleted, but not for ever."""

_MOST_PAGES: Final = 1_000_000


class Listing:
    """One listing. A server that comes back to where it was, or goes on without names, ends it with an error."""

    def __init__(self, bucket: Bucket, store: str, prefix: str) -> None:
        self._bucket = bucket
        self._store = store
        self._prefix = prefix
        self._beginnings: set[int] = set()
        """Hashes of the tokens, and of the first name of each page: they are for one listing."""
        self._empty = 0
        self._pages = 0
        self._token: str | None = None
        self._has_ended = False

    async def next_page(self) -> tuple[str, ...] | None:
        """Returns the names of the next page. None: the last page was returned before.

        Raises:
            StoreProtocolError: the server repeats itself, or answers with something else. Another `StoreError`.
        """
        if self._has_ended:
            return None
        page = await self._bucket.page(self._prefix, self._token)
        self._pages += 1
        self._token = page.token
        if page.token is None:
            self._has_ended = True
        else:
            self._check(page.names, page.token)
        return page.names

    def _check(self, names: tuple[str, ...], token: str) -> None:
        if self._pages > _MOST_PAGES:
            raise self._endless(f"more than {_MOST_PAGES} pages")
        self._empty = 0 if names else self._empty + 1
        if self._empty > _MOST_EMPTY:
            raise self._endless(f"more than {_MOST_EMPTY} pages without a name")
        beginnings = {hash(("token", token))} | {hash(("name", name)) for name in names[:1]}
        if beginnings & self._beginnings:
            raise self._endless("a page that was there before")
        self._beginnings |= beginnings

    def _endless(self, what: str) -> StoreProtocolError:
        return StoreProtocolError(self._store, f"listing: the server answers {what}, so the listing would never end")
