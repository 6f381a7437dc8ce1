"""`DamagedObjects`: the second look at objects that did not verify, and their removal where nothing else can be hit."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from lmcache_connect import ConnectorClosedError, CorruptRecordError, StoreError, StoreUnavailableError
from lmcache_connect.errors import UnsupportedOperationError
from lmcache_connect.record import OVERHEAD_BYTES, TRAILER_BYTES, PayloadHasher

from .bucket import Bucket
from .http_connection import HTTPConnection
from .object_answer import ObjectAnswer, ObjectRequest, read_answer
from .object_names import ObjectNames
from .record_header import read_record_header
from .signing import Signing

_MOST_SEEN: Final = 64
"""Objects that did not verify, and are remembered for the second look."""

_PIECE: Final = 256 << 10
_TIDY_SECONDS: Final = 1.0
_WRONG_ETAG: Final = f'"{0:032x}"'


class DamagedObjects:
    """Removes an object that two looks have found damaged, by a DELETE on the condition that it is still the same one.

    Not every store knows such a condition, and one that does not removes whatever is there. AWS knows it. Of another
    store that is found out once, by an object of the connector's own that is deleted on a wrong condition. Lives on one
    event loop.
    """

    def __init__(
        self,
        bucket: Bucket,
        signing: Signing,
        names: ObjectNames,
        connect: Callable[[], Awaitable[HTTPConnection]],
        max_value_bytes: int,
    ) -> None:
        """`connect` opens a connection: the second look has one of its own."""
        self._bucket = bucket
        self._signing = signing
        self._names = names
        self._connect = connect
        self._max_bytes = max_value_bytes + OVERHEAD_BYTES
        self._seen: dict[str, str] = {}
        self._honours: bool | None = None
        self._probing = anyio.Lock()

    def seen(self, name: str, etag: str | None) -> None:
        """A get has found this object damaged. `etag` None: the store sends none."""
        self._seen.pop(name, None)
        if etag is not None:
            if len(self._seen) >= _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[name] = etag

    async def remove(self, name: str, key: str) -> bool:
        """Looks again at the object, and removes it if it is the one that was seen and still damaged.

        Returns whether it was removed.

        Raises:
            UnsupportedOperationError: the store cannot remove an object on a condition, or sends no ETags.
            StoreError: the store has refused, or is lost.
        """
        etag = self._seen.pop(name, None)
        if etag is None or not await self._honours_conditions():
            raise UnsupportedOperationError("S3Connector", "the removal of an object on the condition of its ETag")
        return await self._is_still_damaged(name, key, etag) and await self._bucket.remove_if(name, etag)

    async def _is_still_damaged(self, name: str, key: str, etag: str) -> bool:
        signer = await self._signing.current()
        asked = ObjectRequest(name, 0, None)
        connection = await self._connect()
        try:
            await connection.request(signer.head("GET", name))
            answer = await read_answer(connection, await connection.read_head("GET"), asked, self._max_bytes)
            if not isinstance(answer, ObjectAnswer) or answer.version.etag != etag:
                return False
            try:
                await _verify(connection, answer, key)
            except CorruptRecordError as error:
                return error.removable
            return False
        finally:
            connection.close()

    async def _honours_conditions(self) -> bool:
        if self._signing.location.is_of_aws:
            return True
        async with self._probing:
            if self._honours is None:
                try:
                    self._honours = await self._probe()
                except StoreUnavailableError:
                    raise
                except StoreError:
                    self._honours = False  # it may not put or remove such an object
            return self._honours

    async def _probe(self) -> bool:
        name = self._names.internal(f"removal-{secrets.token_hex(8)}")
        try:
            await self._bucket.put(name, b"may be removed")
            return await self._bucket.refuses_to_remove(name, _WRONG_ETAG)
        finally:
            with anyio.move_on_after(_TIDY_SECONDS, shield=True):
                try:
                    await self._bucket.remove(name)
                except (StoreError, ConnectorClosedError):
                    pass  # a lifecycle rule removes it


async def _verify(connection: HTTPConnection, answer: ObjectAnswer, key: str) -> None:
    header = await read_record_header(connection, answer, key)
    stream = connection.stream
    stream.take(header.length)
    hasher = PayloadHasher()
    left = header.payload_length
    while left:
        await stream.peek(1)  # raises where the connection has ended
        piece = await stream.read_some(min(left, _PIECE))
        hasher.update(piece)
        left -= len(piece)
    trailer = bytes(await stream.peek(TRAILER_BYTES))
    if header.has_checksum:
        hasher.verify(trailer)
