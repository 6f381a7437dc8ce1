"""`ObjectFacts`: what the store says of an object, and what its record says at its beginning and its end."""

from __future__ import annotations

import re
import struct
import time
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.contract import KeyFacts, PartSum
from lmcache_connect.errors import FrameError
from lmcache_connect.record import MAX_HEADER_BYTES, TRAILER_BYTES, decode_header

from .bucket import Bucket
from .http_connection import ResponseHead

_FORM: Final = "one object"
_TRAILER: Final = struct.Struct("<Q")
_EXPIRY_DATE: Final = re.compile(r'expiry-date="([^"]{1,64})"')
_TOTAL: Final = re.compile(r"bytes [0-9]+-[0-9]+/([0-9]{1,18})")


class ObjectFacts:
    """Asks for facts. Lives on one event loop."""

    def __init__(self, bucket: Bucket, store: str) -> None:
        """`store`: the store's address."""
        self._bucket = bucket
        self._store = store

    async def of(self, key: str, name: str, *, records: bool) -> KeyFacts | None:
        """Returns the facts of a key's object; None for a missing one.

        Raises:
            AccessDeniedError: access to it is denied.
            StoreError: the store has failed.
        """
        head = await self._bucket.head_of(name)
        if head is None:
            return None
        size = _size_of(head)
        facts = KeyFacts(
            stored_bytes=size,
            ttl=_ttl_of(head),
            modified=_time_of(head.headers.get("last-modified", "")),
            form=_FORM,
            server=self._store,
        )
        if not records or size is None:
            return facts
        if size < TRAILER_BYTES:
            return replace(facts, problem=f"{size} bytes, which are too few for a record")
        start = await self._bucket.part_of(name, 0, min(size, MAX_HEADER_BYTES), head.etag)
        end = await self._bucket.part_of(name, size - TRAILER_BYTES, size, head.etag)
        if start is None or end is None:
            return facts  # it was replaced or removed meanwhile: nothing of its record is known
        return _with_record(facts, key, size, start, end)


def _with_record(facts: KeyFacts, key: str, size: int, start: bytes, end: bytes) -> KeyFacts:
    try:
        header = decode_header(start, key, size)
    except (FrameError, CorruptRecordError) as error:
        return replace(facts, problem=str(error))
    if header.is_striped:
        return replace(facts, problem="a piece of a chunk, by itself")
    metadata = header.metadata
    sums = (PartSum(0, metadata.nbytes, _TRAILER.unpack(end)[0]),) if header.has_checksum else ()
    return replace(facts, nbytes=metadata.nbytes, metadata=metadata, sums=sums)


def _size_of(head: ResponseHead) -> int | None:
    if (found := _TOTAL.fullmatch(head.headers.get("content-range", ""))) is not None:
        return int(found[1])
    text = head.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _ttl_of(head: ResponseHead) -> float | None:
    """Returns the seconds until a rule of the bucket removes the object, where the store tells."""
    found = _EXPIRY_DATE.search(head.headers.get("x-amz-expiration", ""))
    ends = None if found is None else _time_of(found[1])
    return None if ends is None else max(0.0, ends - time.time())


def _time_of(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
