"""`ObjectRemoval`: removes many objects, with one request for many of them or with one for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from lmcache_connect import AuthenticationError, StoreError, StoreUnavailableError
from lmcache_connect.contract import Flags, gather
from lmcache_connect.errors import StoreCommandError, StoreProtocolError

from .bucket import Bucket
from .failures import AccessDeniedError, ExpiredCredentialsError

MAX_DELETED: Final = 1000
"""The most names that one request may delete."""


class ObjectRemoval:
    """Uses DeleteObjects until the store refuses it, or answers it with something else. Lives on one event loop.

    Some stores lack it, some policies allow the removal of single objects only, and some gateways lose the checksum
    that it needs. That is remembered for as long as this object lives.
    """

    def __init__(self, bucket: Bucket, at_a_time: int) -> None:
        """`at_a_time`: how many requests for single objects are under way."""
        self._bucket = bucket
        self._at_a_time = at_a_time
        self._has_batches = True

    async def remove_all(self, names: Sequence[str]) -> Flags:
        """Returns for each name whether the store has confirmed that there is no such object now.

        Raises:
            StoreError: the store is lost, or has refused every one of the removals.
        """
        outcomes: dict[str, StoreError | None] = {}
        each = list(dict.fromkeys(names))
        for start in range(0, len(each), MAX_DELETED):
            outcomes |= await self._remove_piece(each[start : start + MAX_DELETED])
        failures = [error for error in outcomes.values() if error is not None]
        if failures and len(failures) == len(outcomes):
            raise failures[0]
        return [outcomes[name] is None for name in names]

    async def _remove_piece(self, names: Sequence[str]) -> dict[str, StoreError | None]:
        outcomes: dict[str, StoreError | None] = {}
        together = [name for name in names if _fits_a_document(name)] if self._has_batches and len(names) > 1 else []
        is_refused = False
        if together:
            try:
                outcomes = dict(await self._bucket.remove_together(together))
            except ExpiredCredentialsError:
                raise
            except (StoreCommandError, StoreProtocolError, AuthenticationError):
                is_refused = True
        denied = [name for name, error in outcomes.items() if isinstance(error, AccessDeniedError)]
        if denied and await self._remove(denied[0]) is None:
            # Each by itself is allowed, and not all together: for some servers these are different rights.
            self._has_batches = False
            outcomes = {name: error for name, error in outcomes.items() if not isinstance(error, AccessDeniedError)}
            outcomes[denied[0]] = None
        left = [name for name in names if name not in outcomes]
        removed = await gather([partial(self._remove, name) for name in left], self._at_a_time)
        # Only what single removals are allowed shows that it was the request for many that was refused.
        if is_refused and any(error is None for error in removed):
            self._has_batches = False
        return outcomes | dict(zip(left, removed, strict=True))

    async def _remove(self, name: str) -> StoreError | None:
        try:
            await self._bucket.remove(name)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            return error
        return None


def _fits_a_document(name: str) -> bool:
    """Whether an XML document brings the name to the server as it is."""
    return name.isprintable() and name == name.strip()
