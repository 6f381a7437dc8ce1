"""`ObjectAnswer`: a server's answer to a GET of an object, checked against what was asked.

`read_answer` is the only place where status, encoding, lengths and ranges of such an answer are checked. Everything
later reads them from the `ObjectAnswer` that it returns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

from lmcache_connect.errors import ValueTooLargeError

from .failures import ArchivedObjectError, NoSuchBucketError
from .http_connection import HTTPConnection, ResponseHead
from .refusals import refused

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """Which object a further GET is about: what the first answer said of it. `etag` None: the server sent none."""

    nbytes: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class ObjectRequest:
    """A GET of the bytes from `start` to `end` (not included). `end` None: of all bytes, without a range.

    `version` None: of any object that has the name. Otherwise of this one, of which bytes have come before.
    """

    name: str
    start: int
    end: int | None
    version: ObjectVersion | None = None

    def headers(self) -> dict[str, str]:
        """Returns the headers that ask for this."""
        headers = {} if self.end is None else {"range": f"bytes={self.start}-{self.end - 1}"}
        if self.version is not None and self.version.etag is not None:
            headers["if-match"] = self.version.etag
        return headers


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """The bytes from `start` to `end` (not included) of an object follow on the connection: those that were asked for.

    `head` is the answer's status line and headers, for the connection, which is told when the body was read.
    """

    start: int
    end: int
    version: ObjectVersion
    head: ResponseHead


class NoObject(Enum):
    """Why an answer brings no bytes of the object that was asked for. Its body was read."""

    MISSING = "there is no object of this name"
    NO_RANGE = "the object has no bytes in the range that was asked for"
    ARCHIVED = "the object is in an archive, and has to be restored before it can be read"
    REPLACED = "another object has the name now, or none"


async def read_answer(
    connection: HTTPConnection, head: ResponseHead, asked: ObjectRequest, max_bytes: int
) -> ObjectAnswer | NoObject:
    """Checks an answer whose head was read. Reads its body only where that is not the object.

    Raises:
        StoreProtocolError: it does not answer what was asked. The connection is closed.
        ValueTooLargeError: the object has more than `max_bytes`. The connection is closed.
        StoreError: what the server refuses.
    """
    if asked.version is None:
        nothing = {404: NoObject.MISSING, 416: NoObject.NO_RANGE}.get(head.status)
    else:
        # 416: some servers look at the range first, and what has replaced the object is shorter.
        nothing = NoObject.REPLACED if head.status in {404, 412, 416} else None
    if nothing is NoObject.NO_RANGE and asked.end is None:
        nothing = None  # no range was asked for: the answer is of something that did not understand the request
    if nothing is not None:
        error = await refused(connection, head, "get")
        if nothing is NoObject.MISSING and isinstance(error, NoSuchBucketError):
            raise error
        return nothing
    if head.status not in {200, 206}:
        error = await refused(connection, head, "get")
        if isinstance(error, ArchivedObjectError):
            return NoObject.ARCHIVED
        raise error
    answer = _answer(connection, head, max_bytes)
    if asked.version is None:
        wanted = min(asked.end if asked.end is not None else answer.version.nbytes, answer.version.nbytes)
        if _is_part(head) and (answer.start, answer.end) != (0, wanted):
            raise connection.broken(f"{_described(answer)}; asked for the first {wanted}")
        return answer
    if not _is_part(head):
        raise connection.broken("the whole object in place of a range")
    if not _is_of(answer, asked.version):
        connection.close()  # it brings bytes of another object
        return NoObject.REPLACED
    if (answer.start, answer.end) != (asked.start, asked.end):
        raise connection.broken(f"{_described(answer)}; asked for {asked.start} to {asked.end}")
    return answer


def _answer(connection: HTTPConnection, head: ResponseHead, max_bytes: int) -> ObjectAnswer:
    """Checks what holds for every answer that brings bytes of an object."""
    if head.headers.get("content-encoding", "identity").lower() not in {"", "identity", "aws-chunked"}:
        raise connection.broken("an object that something on the way has encoded")
    length = head.length
    if length is None:
        raise connection.broken("an object without a Content-Length")
    start, end, total = 0, length, length
    if _is_part(head):
        found = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
        if found is None:
            raise connection.broken("a part of an object that does not say which")
        start, last, total = map(int, found.groups())
        end = last + 1
        if not start < end <= total or end - start != length:
            raise connection.broken(f"{length} bytes as bytes {start} to {last} of {total}")
    if max(length, total) > max_bytes:
        connection.close()
        raise ValueTooLargeError(connection.store, max(length, total), max_bytes)
    return ObjectAnswer(start, end, ObjectVersion(total, head.etag), head)


def _is_part(head: ResponseHead) -> bool:
    # rclone answers ranges with 200, and says in Content-Range what it sends.
    return head.status == 206 or "content-range" in head.headers


def _is_of(answer: ObjectAnswer, version: ObjectVersion) -> bool:
    if answer.version.nbytes != version.nbytes:
        return False
    return version.etag is None or answer.version.etag in {None, version.etag}


def _described(answer: ObjectAnswer) -> str:
    return f"bytes {answer.start} to {answer.end} of {answer.version.nbytes}"
