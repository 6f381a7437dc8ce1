"""What an answer to a GET may say, checked against what was asked, without a server."""

from __future__ import annotations

from typing import Any, cast

import pytest

from lmcache_connect import StoreError
from lmcache_connect.errors import StoreProtocolError, ValueTooLargeError
from lmcache_connect_s3.failures import NoSuchBucketError
from lmcache_connect_s3.http_connection import ResponseHead
from lmcache_connect_s3.object_answer import NoObject, ObjectAnswer, ObjectRequest, ObjectVersion, read_answer

FIRST = ObjectRequest("k", 0, 100)
WHOLE = ObjectRequest("k", 0, None)
REST = ObjectRequest("k", 100, 200, ObjectVersion(250, '"one"'))
MAX_BYTES = 1000


class _Connection:
    """Takes the place of `HTTPConnection`: brings `document`, and says whether it was closed."""

    store = "s3://bkt"

    def __init__(self, document: bytes = b"") -> None:
        self.document = document
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def broken(self, reason: str) -> StoreProtocolError:
        self.close()
        return StoreProtocolError(self.store, reason)

    async def read_body(self, head: ResponseHead, limit: int) -> bytes:
        return self.document


async def read(
    asked: ObjectRequest, status: int, headers: dict[str, str], connection: _Connection | None = None
) -> ObjectAnswer | NoObject:
    length = headers.pop("content-length", None)
    head = ResponseHead(status, headers, int(length) if length is not None else None, length != "0", False)
    return await read_answer(cast(Any, connection or _Connection()), head, asked, MAX_BYTES)


def part(start: int, last: int, total: int, **headers: str) -> dict[str, str]:
    length = str(last + 1 - start)
    return {"content-length": length, "content-range": f"bytes {start}-{last}/{total}", **headers}


@pytest.mark.parametrize("asked", [FIRST, WHOLE])
@pytest.mark.asyncio
async def test_a_whole_object_answers_a_first_request_with_or_without_a_range(asked: ObjectRequest) -> None:
    answer = await read(asked, 200, {"content-length": "250", "etag": '"one"'})
    assert isinstance(answer, ObjectAnswer)
    assert (answer.start, answer.end, answer.version) == (0, 250, ObjectVersion(250, '"one"'))


@pytest.mark.parametrize("status", [206, 200])  # rclone answers ranges with 200
@pytest.mark.asyncio
async def test_a_first_range_tells_how_long_the_object_is(status: int) -> None:
    answer = await read(FIRST, status, part(0, 99, 250))
    assert isinstance(answer, ObjectAnswer)
    assert (answer.start, answer.end, answer.version) == (0, 100, ObjectVersion(250, None))
    answer = await read(FIRST, status, part(0, 49, 50))
    assert isinstance(answer, ObjectAnswer)
    assert (answer.end, answer.version.nbytes) == (50, 50)


@pytest.mark.asyncio
async def test_a_further_range_is_of_the_same_object() -> None:
    for etag in ({"etag": '"one"'}, {}):  # a server need not repeat it
        answer = await read(REST, 206, part(100, 199, 250, **etag))
        assert isinstance(answer, ObjectAnswer)
        assert (answer.start, answer.end) == (100, 200)


@pytest.mark.parametrize(
    ("asked", "status", "headers"),
    [
        (FIRST, 206, part(0, 49, 250)),  # less than was asked for
        (FIRST, 206, part(0, 149, 250)),
        (FIRST, 206, part(50, 149, 250)),
        (WHOLE, 206, part(0, 0, 250)),
        (WHOLE, 206, part(0, 99, 250)),
        (FIRST, 206, {"content-length": "100"}),
        (FIRST, 206, {**part(0, 99, 250), "content-length": "99"}),
        (FIRST, 206, {"content-length": "100", "content-range": "bytes 0-99/*"}),
        (FIRST, 206, part(0, 99, 99)),
        (FIRST, 200, {}),
        (FIRST, 200, {"content-length": "100", "content-encoding": "gzip"}),
        (REST, 200, {"content-length": "250"}),
        (REST, 206, part(100, 149, 250)),
        (REST, 206, part(101, 200, 250)),
    ],
)
@pytest.mark.asyncio
async def test_an_answer_to_something_else_is_refused_and_its_connection_closed(
    asked: ObjectRequest, status: int, headers: dict[str, str]
) -> None:
    connection = _Connection()
    with pytest.raises(StoreProtocolError):
        await read(asked, status, dict(headers), connection)
    assert connection.is_closed


@pytest.mark.parametrize("headers", [{"content-length": "1001"}, part(0, 99, 1001)])
@pytest.mark.asyncio
async def test_an_object_that_is_too_large_is_refused_whichever_length_says_so(headers: dict[str, str]) -> None:
    connection = _Connection()
    with pytest.raises(ValueTooLargeError):
        await read(FIRST, 206 if "content-range" in headers else 200, dict(headers), connection)
    assert connection.is_closed


@pytest.mark.parametrize(
    ("asked", "status", "headers", "why"),
    [
        (FIRST, 404, {"content-length": "0"}, NoObject.MISSING),
        (FIRST, 416, {"content-length": "0"}, NoObject.NO_RANGE),
        (REST, 404, {"content-length": "0"}, NoObject.REPLACED),
        (REST, 412, {"content-length": "0"}, NoObject.REPLACED),
        (REST, 416, {"content-length": "0"}, NoObject.REPLACED),
        (REST, 206, part(100, 199, 251), NoObject.REPLACED),
        (REST, 206, part(100, 199, 250, etag='"two"'), NoObject.REPLACED),
    ],
)
@pytest.mark.asyncio
async def test_an_answer_without_the_object_says_why(
    asked: ObjectRequest, status: int, headers: dict[str, str], why: NoObject
) -> None:
    assert await read(asked, status, dict(headers)) is why


@pytest.mark.asyncio
async def test_what_the_server_refuses_is_the_error_that_its_document_names() -> None:
    document = b"<Error><Code>NoSuchBucket</Code><Message>no</Message></Error>"
    with pytest.raises(NoSuchBucketError):
        await read(FIRST, 404, {"content-length": "99"}, _Connection(document))
    with pytest.raises(StoreError, match="403"):
        await read(FIRST, 403, {"content-length": "0"})
    with pytest.raises(StoreError, match="412"):
        await read(FIRST, 412, {"content-length": "0"})


def test_a_further_request_is_for_the_object_of_which_bytes_have_come() -> None:
    assert WHOLE.headers() == {}
    assert FIRST.headers() == {"range": "bytes=0-99"}
    assert REST.headers() == {"range": "bytes=100-199", "if-match": '"one"'}
