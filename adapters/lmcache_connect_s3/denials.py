"""`Denials`: what it means that the store denies access to an object, which may only be missing."""

from __future__ import annotations

import logging
import time
from typing import Final

from lmcache_connect.observability import event

from .bucket import Bucket
from .failures import AccessDeniedError

_SECONDS: Final = 60.0
"""For so long, what was found out of one object counts for all."""

_ADVICE: Final = "objects that are denied count as missing; if every get is a miss, allow s3:GetObject under the prefix"


class Denials:
    """Tells an object that is denied from one that is missing. Lives on one event loop.

    Without the right to list the whole bucket, S3 answers 403 AccessDenied for a missing object, which says nothing of
    the data path's rights. A listing of this one name tells where it is allowed, as it is to who may list a prefix.
    Where that is denied as well, nothing can tell, and the object counts as missing.
    """

    def __init__(self, bucket: Bucket, store: str) -> None:
        self._bucket = bucket
        self._store = store
        self._until = 0.0
        self._has_told = False

    @property
    def stand_for_missing(self) -> bool:
        """Whether this store was lately found to deny access to objects that are missing."""
        return time.monotonic() < self._until

    async def exists(self, name: str) -> bool:
        """Returns whether there is an object of this name.

        Raises:
            AccessDeniedError: there is one, and it may not be read.
        """
        try:
            return await self._bucket.exists(name, denied_is_missing=self.stand_for_missing)
        except AccessDeniedError:
            if await self.is_of_missing(name):
                return False
            raise

    async def is_of_missing(self, name: str) -> bool:
        """Returns whether access to this object was denied because it is missing."""
        if self.stand_for_missing:
            return True
        try:
            is_missing = name not in (await self._bucket.page(name, None)).names
        except AccessDeniedError:
            is_missing = True
            self._tell()
        if is_missing:
            self._until = time.monotonic() + _SECONDS
        return is_missing

    def _tell(self) -> None:
        if not self._has_told:
            self._has_told = True
            event(logging.WARNING, "denied_objects_count_as_missing", store=self._store, advice=_ADVICE)
