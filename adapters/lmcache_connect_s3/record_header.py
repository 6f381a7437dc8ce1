"""`read_record_header`: tells a record from anything else that may stand in the place of an object."""

from __future__ import annotations

from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.record import MIN_HEADER_BYTES, TRAILER_BYTES, FrameHeader, decode_header, header_length

from .http_connection import HTTPConnection, ResponseHead
from .object_answer import ObjectAnswer
from .refusals import MAX_ERROR_BYTES, refused_late

_PREFIX_BYTES: Final = 8
"""A record's magic, version and the length of its header."""

_SKIPPED_BYTES: Final = 256 << 10
"""A body of at most so many bytes is read to its end, so that the connection can be used again."""


async def read_record_header(connection: HTTPConnection, answer: ObjectAnswer, key: str) -> FrameHeader:
    """Reads the header of the record that an answer to a whole GET, or to its first range, begins with.

    The header stays on the stream: the caller takes it. Where this raises, the body is read or the connection closed.

    Raises:
        CorruptRecordError: it is not a record of this key.
        StoreError: it is an error document, which the server sent in place of the object.
    """
    try:
        return await _read(connection, answer, key)
    except CorruptRecordError:
        await _skip_body(connection, answer.head)
        raise


async def _read(connection: HTTPConnection, answer: ObjectAnswer, key: str) -> FrameHeader:
    stream = connection.stream
    total = answer.version.nbytes
    if total < MIN_HEADER_BYTES + TRAILER_BYTES:
        await _check_document(connection, answer.head)
        raise CorruptRecordError("short", f"a value of {total} bytes is not a record")
    prefix = bytes(await stream.peek(_PREFIX_BYTES))
    if prefix.lstrip()[:1] == b"<" and total <= MAX_ERROR_BYTES:
        await _check_document(connection, answer.head)
        raise CorruptRecordError("magic", "it is a document, not a record")
    length = header_length(prefix)
    if length + TRAILER_BYTES > total or length > answer.end:
        raise CorruptRecordError("short", f"a value of {total} bytes with a header of {length}", removable=True)
    header = decode_header(await stream.peek(length), key, total)
    if header.is_striped:
        raise CorruptRecordError("striped", "its chunk is striped over parts, which no object's is", removable=False)
    return header


async def _check_document(connection: HTTPConnection, head: ResponseHead) -> None:
    body = await connection.read_body(head, MAX_ERROR_BYTES)
    error = refused_late(connection.store, head, body, "get")
    if error is None:
        return
    if error.retryable or error.permanent:
        raise error
    raise StoreProtocolError(connection.store, error.message)


async def _skip_body(connection: HTTPConnection, head: ResponseHead) -> None:
    if connection.is_read or not connection.stream.is_open:
        return
    if (head.length or 0) <= _SKIPPED_BYTES:
        await connection.stream.discard(head.length or 0)
        connection.finished(head)
    else:
        connection.close()
