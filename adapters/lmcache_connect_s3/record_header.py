"""`read_record_header`: tells a record from anything else that may stand in the place of an object."""

from __future__ import annotations

from typing import Final

from lmcache_connect import CorruptRecordError
from lmcache_connect.errors import FrameError, StoreProtocolError
from lmcache_connect.record import MAGIC, TRAILER_BYTES, FrameHeader, decode_header, header_length

from .http_connection import HTTPConnection, ResponseHead
from .object_answer import ObjectAnswer, ObjectVersion
from .refusals import MAX_ERROR_BYTES, refused_late

_PREFIX_BYTES: Final = 8
"""A record's magic, version and the length of its header."""

_SKIPPED_BYTES: Final = 256 << 10
"""A body of at most so many bytes is read to its end, so that the connection can be used again."""


class UnrecognisedBodyError(StoreProtocolError):
    """What came in place of an object is not a record: it does not begin with the magic of one. Retryable.

    It may be a proxy's page, or an object that another program has stored. Nothing follows from it for the object that
    was asked for. `version`: what the answer says of the object; None where it does not look like one, since every
    S3 server sends an ETag with an object.
    """

    def __init__(self, store: str, what: str, version: ObjectVersion | None) -> None:
        super().__init__(store, f"get: the server answers with {what} in place of a record; it was left as it is")
        self.version = version


async def read_record_header(connection: HTTPConnection, answer: ObjectAnswer, key: str) -> FrameHeader:
    """Reads the header of the record that an answer to a whole GET, or to its first range, begins with.

    The header stays on the stream: the caller takes it. Where this raises, the body is read or the connection closed.

    Raises:
        CorruptRecordError: it is a record, and not one of this key that can be read.
        UnrecognisedBodyError: it is not a record.
        StoreError: it is an error document, which the server sent in place of the object.
    """
    total = answer.version.nbytes
    prefix = bytes(await connection.stream.peek(min(_PREFIX_BYTES, answer.end)))
    if not prefix.startswith(MAGIC):
        raise await _unrecognised(connection, answer, prefix)
    try:
        length = header_length(prefix)
        if length + TRAILER_BYTES > total or length > answer.end:
            raise FrameError("short", f"a value of {total} bytes with a header of {length}")
        header = decode_header(await connection.stream.peek(length), key, total)
        if header.is_striped:
            raise CorruptRecordError(
                "striped", "its chunk is striped over parts, which no object's is", removable=False
            )
    except CorruptRecordError:
        await skip_body(connection, answer.head)
        raise
    return header


async def _unrecognised(connection: HTTPConnection, answer: ObjectAnswer, prefix: bytes) -> StoreProtocolError:
    """Returns the error for a body that is not a record. Another connection may lead past what has sent it.

    Raises:
        StoreError: it is an error document.
    """
    if answer.end == answer.version.nbytes <= MAX_ERROR_BYTES:
        body = await connection.read_body(answer.head, MAX_ERROR_BYTES)
        error = refused_late(connection.store, answer.head, body, "get")
        if error is not None:
            if error.retryable or error.permanent:
                raise error
            return StoreProtocolError(connection.store, error.message)
    connection.close()
    what = f"{answer.version.nbytes} bytes that begin with {prefix!r}" if prefix else "an empty body"
    return UnrecognisedBodyError(connection.store, what, answer.version if answer.version.etag is not None else None)


async def skip_body(connection: HTTPConnection, head: ResponseHead) -> None:
    """Reads a body of which nothing was taken to its end, or closes the connection where it is long."""
    if connection.is_read or not connection.stream.is_open:
        return
    if (head.length or 0) <= _SKIPPED_BYTES:
        await connection.stream.discard(head.length or 0)
        connection.finished(head)
    else:
        connection.close()
