"""`MultipartUpload`: one large record, put in parts side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from lmcache_connect import StoreError
from lmcache_connect.contract import seconds_left
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.transport import in_thread

from .bucket import Bucket
from .retries import Retries, Tries
from .stored_record import StoredRecord
from .storing import Part, Storing
from .tidying import Tidying


class MultipartUpload:
    """Begins an upload, stores its parts and completes it. Gives it up wherever it does not end well.

    An upload that is neither completed nor given up keeps its parts in the store. So its id is waited for even where
    the caller is cancelled. Only where the answer that names the id is lost, or the process dies, is it left to a
    lifecycle rule of the bucket (`docs/s3.md`).
    """

    def __init__(
        self,
        bucket: Bucket,
        retries: Retries,
        tidying: Tidying,
        new_storing: Callable[[int], Awaitable[Storing]],
        store: str,
    ) -> None:
        """`new_storing(nbytes)` returns what stores so many bytes."""
        self._bucket = bucket
        self._retries = retries
        self._tidying = tidying
        self._new_storing = new_storing
        self._store = store

    async def put(
        self, name: str, record: StoredRecord, size: int, headers: Mapping[str, str], object_checksum: str
    ) -> None:
        """Puts a record in parts of `size` bytes. `object_checksum` is the name of S3's own checksum, or `none`.

        Raises:
            StoreError: the record is not stored.
        """
        await in_thread(record.hash_payload)
        given = dict(headers)
        if object_checksum != "none":
            given["x-amz-checksum-algorithm"] = object_checksum.upper()
        upload = await self._begin(name, given)
        try:
            storing = await self._new_storing(record.length)
            parts = storing.store_parts(name, record, upload, size)
            await storing.run()
            await self._complete(name, record, upload, parts, object_checksum)
        except BaseException:
            await self._tidying.run(self._bucket.abort_upload(name, upload))
            raise

    async def _begin(self, name: str, headers: Mapping[str, str]) -> str:
        begun = asyncio.ensure_future(self._bucket.begin_upload(name, headers))
        try:
            return await asyncio.shield(begun)
        except BaseException:
            has_failed = begun.done() and (begun.cancelled() or begun.exception() is not None)
            if not has_failed:
                await self._tidying.run(self._abort_begun(name, begun))
            raise

    async def _abort_begun(self, name: str, begun: asyncio.Future[str]) -> None:
        await self._bucket.abort_upload(name, await begun)

    async def _complete(
        self, name: str, record: StoredRecord, upload: str, parts: Sequence[Part], object_checksum: str
    ) -> None:
        tries = Tries()
        while True:
            try:
                if await self._bucket.complete_upload(name, upload, parts, object_checksum):
                    return
            except StoreError as error:
                # The answer to a request before this one may have been lost, and the upload be completed all the same.
                if error.permanent or not await self._is_stored(name, record):
                    raise
                return
            if await self._is_stored(name, record):
                return
            unclear = StoreProtocolError(
                self._store,
                "put: the answer to the completion of an upload is unknown, and the object is not there",
            )
            retry = self._retries.again(tries, unclear, seconds_left=seconds_left())
            if retry is None:
                raise unclear
            await anyio.sleep(retry.pause)

    async def _is_stored(self, name: str, record: StoredRecord) -> bool:
        storing = await self._new_storing(0)
        check = storing.check(name, record)
        try:
            await storing.run()
        except StoreError:
            return False
        return check.is_stored
