"""`Fetching`: the chunks of one get or batched get, from objects into the arena."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Final

import anyio.lowlevel

from lmcache_connect import CorruptRecordError, MemoryObj
from lmcache_connect.contract import Slots
from lmcache_connect.errors import StoreProtocolError, ValueTooLargeError
from lmcache_connect.record import (
    MIN_HEADER_BYTES,
    OVERHEAD_BYTES,
    TRAILER_BYTES,
    FrameHeader,
    PayloadHasher,
    decode_header,
    header_length,
)
from lmcache_connect.streaming import PlaceInLine

from .answers import error_of
from .failures import NoSuchBucketError, refusal
from .http_connection import HTTPConnection, ResponseHead
from .requests import MAX_ERROR_BYTES, ObjectChecksum, Requests
from .transfers import Job, Transfers

_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_SKIPPED_BYTES: Final = 256 << 10
"""What is left of a body is read to its end up to here, so that the connection can be used again."""

_HASHED_PIECE: Final = 1 << 20
_REPLACED_TRIES: Final = 4
_RECHECKS: Final = 2


class _Counter:
    """Shows pieces to hashers, and knows how many bytes have come: from there a broken body is resumed."""

    __slots__ = ("_updates", "count")

    def __init__(self, updates: Sequence[Callable[[memoryview], object]]) -> None:
        self._updates = updates
        self.count = 0

    def update(self, piece: memoryview) -> None:
        for update in self._updates:
            update(piece)
        self.count += len(piece)


class _Incoming:
    """An object that is being received, by one job or by several, each of a span of it."""

    def __init__(self, header: FrameHeader, obj: MemoryObj, total: int, etag: str | None) -> None:
        self.header = header
        self.obj = obj
        self.total = total
        self.etag = etag
        self.trailer = bytearray(TRAILER_BYTES)
        self.hasher = PayloadHasher() if header.has_checksum else None
        self.checksum: ObjectChecksum | None = None
        self.expected_checksum = ""
        self.is_replaced = False
        self.is_split = False
        self._spans = 1
        self._lock = threading.Lock()

    def split(self, spans: int) -> None:
        """It comes in so many spans."""
        self._spans = spans
        self.is_split = spans > 1

    def ends(self) -> bool:
        """One span is done, or given up; whether it was the last."""
        with self._lock:
            self._spans -= 1
            return not self._spans


class Fetching(Transfers):
    """After `run()`: `found` has a slot per chunk, and `corrupt` the error of every slot that did not verify."""

    def __init__(
        self,
        requests: Callable[[], Requests],
        names: Sequence[tuple[str, str]],
        place: PlaceInLine,
        *,
        limit: int,
        range_size: int,
        object_checksum: str,
        **transfers: object,
    ) -> None:
        """`names` are pairs of a key and its object's name."""
        super().__init__(**transfers)  # type: ignore[arg-type]
        self.requests = requests
        self.limit = limit + OVERHEAD_BYTES
        self.range_size = range_size
        self.object_checksum = object_checksum
        self.room = place.room()
        self.found: Slots = [None] * len(names)
        self.corrupt: dict[int, CorruptRecordError] = {}
        self._incoming: set[_Incoming] = set()
        for slot, (key, name) in enumerate(names):
            self._pending.append(_Fetch(self, slot, key, name))

    def received(self, slot: int, incoming: _Incoming) -> None:
        """A chunk has verified."""
        self.found[slot] = incoming.obj
        self._incoming.discard(incoming)

    def began(self, incoming: _Incoming) -> None:
        """Room for a chunk was made."""
        self._incoming.add(incoming)

    def drop(self, incoming: _Incoming) -> None:
        """A chunk is given up, and nothing is received into it any more."""
        self._incoming.discard(incoming)
        incoming.obj.ref_count_down()

    def release(self) -> None:
        """Gives back everything: the call failed or was cancelled, and every worker has ended."""
        self.room.release_spare()
        for obj in self.found:
            if obj is not None:
                obj.ref_count_down()
        for incoming in list(self._incoming):
            self.drop(incoming)


class _Fetch(Job):
    """One object, or what is left of a span of it."""

    def __init__(self, call: Fetching, slot: int, key: str, name: str, replaced: int = 0) -> None:
        super().__init__()
        self._call = call
        self._slot = slot
        self._key = key
        self._name = name
        self._replaced = replaced
        self._rechecks = 0
        self._incoming: _Incoming | None = None
        self._span = (0, 0)

    def _of(self, incoming: _Incoming, start: int, end: int) -> _Fetch:
        job = _Fetch(self._call, self._slot, self._key, self._name, self._replaced)
        job._incoming = incoming
        job._span = (start, end)
        job._rechecks = self._rechecks
        return job

    async def run(self, connection: HTTPConnection) -> None:
        incoming = self._incoming
        if incoming is None:
            await self._from_the_start(connection)
        elif incoming.is_replaced:
            self._ended(incoming)
        elif incoming.etag is None and not incoming.is_split:
            # Nothing tells whether the rest would be of the same object.
            self._incoming = None
            self._call.drop(incoming)
            await self._from_the_start(connection)
        else:
            await self._the_rest(connection, incoming)

    # ------------------------------------------------------------------------------------------------ requests

    async def _get(self, connection: HTTPConnection, headers: dict[str, str]) -> tuple[Requests, ResponseHead]:
        requests = self._call.requests()
        if self._call.object_checksum != "none":
            headers["x-amz-checksum-mode"] = "ENABLED"
        await connection.request(requests.head("GET", self._name, headers=headers))
        head = await connection.read_head("GET")
        self.was_answered = True
        return requests, head

    async def _from_the_start(self, connection: HTTPConnection) -> None:
        size = self._call.range_size
        requests, head = await self._get(connection, {"range": f"bytes=0-{size - 1}"} if size else {})
        if head.status == 404:
            refused = await requests.refused(connection, head, "get")
            if isinstance(refused, NoSuchBucketError):
                raise refused
            return  # a miss
        if head.status == 416:  # an empty object has no first byte
            await requests.refused(connection, head, "get")
            self._call.corrupt[self._slot] = CorruptRecordError("short", "a value of 0 bytes is no record")
            return
        if head.status not in {200, 206}:
            raise await requests.refused(connection, head, "get")
        total = self._checked_length(connection, head)
        if _is_part(head):
            start, end, total = self._content_range(connection, head)
            if start != 0 or end > max(size, 1) or (end < size and end != total):
                raise connection.broken(f"bytes {start} to {end} of {total}; asked for the first {size}")
        try:
            header = await self._header(connection, requests, head, total)
        except CorruptRecordError as error:
            await self._skip(connection, head)
            self._is_corrupt(connection, error)
            return
        await self._receive(connection, head, header, total)

    async def _receive(self, connection: HTTPConnection, head: ResponseHead, header: FrameHeader, total: int) -> None:
        call = self._call
        end = head.length or 0
        rest = _spans(end, total, call.range_size)
        if rest and head.etag is None and not header.has_checksum:
            raise connection.broken("a part of an object without an ETag, which nothing would tell from another's")
        obj = await call.room.make(connection, header.metadata)
        incoming = self._incoming = _Incoming(header, obj, total, head.etag)
        call.began(incoming)
        incoming.split(1 + len(rest))
        if not rest and call.object_checksum != "none":
            self._expect_checksum(connection, incoming, head)
        connection.stream.take(header.length)
        self._span = (header.length, end)
        for span in rest:
            call.add(self._of(incoming, *span))
        await self._receive_span(connection, incoming, head)

    def _expect_checksum(self, connection: HTTPConnection, incoming: _Incoming, head: ResponseHead) -> None:
        checksum = ObjectChecksum(self._call.object_checksum)
        stored = head.headers.get(checksum.header, "")
        if stored and "-" not in stored:  # one with a number of parts is of the parts' checksums
            checksum.update(bytes(connection.stream.buffered_view()[: incoming.header.length]))
            incoming.checksum, incoming.expected_checksum = checksum, stored

    async def _the_rest(self, connection: HTTPConnection, incoming: _Incoming) -> None:
        start, end = self._span
        headers = {"range": f"bytes={start}-{end - 1}"}
        if incoming.etag is not None:
            headers["if-match"] = incoming.etag
        requests, head = await self._get(connection, headers)
        if head.status in {404, 412}:
            await requests.refused(connection, head, "get")
            self._is_replaced(incoming)
            return
        if head.status == 200 and not _is_part(head):
            raise connection.broken("the whole object in place of a range")
        if not _is_part(head):
            raise await requests.refused(connection, head, "get")
        found = self._content_range(connection, head)
        if found[2] != incoming.total or (incoming.etag is not None and head.etag not in {None, incoming.etag}):
            connection.close()
            self._is_replaced(incoming)
            return
        if found != (start, end, incoming.total):
            raise connection.broken(f"bytes {found[0]} to {found[1]}; asked for {start} to {end}")
        await self._receive_span(connection, incoming, head)

    # ------------------------------------------------------------------------------------------------ receiving

    async def _receive_span(self, connection: HTTPConnection, incoming: _Incoming, head: ResponseHead) -> None:
        header = incoming.header
        start, end = self._span
        payload_end = header.length + header.payload_length
        updates = []
        if not incoming.is_split:
            updates = [each.update for each in (incoming.hasher, incoming.checksum) if each is not None]
        counter = _Counter(updates)
        try:
            if start < payload_end:
                first, last = start - header.length, min(end, payload_end) - header.length
                await connection.stream.receive_into(incoming.obj.byte_array[first:last], counter)
                start = header.length + last
                counter.count = 0
            if start < end:
                nbytes = end - start
                at = start - payload_end
                incoming.trailer[at : at + nbytes] = await connection.stream.peek(nbytes)
                connection.stream.take(nbytes)
                start = end
        finally:
            self._span = (start + counter.count, end)  # what is left, should it break here
        connection.finished(head)
        await self._verify_last(connection, incoming)

    async def _verify_last(self, connection: HTTPConnection, incoming: _Incoming) -> None:
        if not incoming.ends():
            return
        self._incoming = None
        if incoming.is_replaced:
            self._start_again(incoming)
            return
        try:
            if incoming.hasher is not None:
                if incoming.is_split:
                    await _hash(incoming, connection.stream.is_lent)
                incoming.hasher.verify(bytes(incoming.trailer))
            if (checksum := incoming.checksum) is not None:
                checksum.update(bytes(incoming.trailer))
                if checksum.value() != incoming.expected_checksum:
                    raise CorruptRecordError("object_checksum", f"its {checksum.header} is not that of its bytes")
        except CorruptRecordError as error:
            self._call.drop(incoming)
            self._is_corrupt(connection, error)
            return
        self._call.received(self._slot, incoming)

    def _is_corrupt(self, connection: HTTPConnection, error: CorruptRecordError) -> None:
        """An object does not verify: unless what came was the answer to something else, which a server has left on a
        connection that was used before. Only what a new connection brings, or several others, is held against it."""
        if connection.requests == 1 or self._rechecks == _RECHECKS:
            self._call.corrupt[self._slot] = error
            return
        connection.close()
        self._incoming = None
        self._rechecks += 1
        self.attempts = 0
        self._call.add(self)

    def _is_replaced(self, incoming: _Incoming) -> None:
        incoming.is_replaced = True
        self._ended(incoming)

    def _ended(self, incoming: _Incoming) -> None:
        self._incoming = None
        if incoming.ends():
            self._start_again(incoming)

    def _start_again(self, incoming: _Incoming) -> None:
        self._call.drop(incoming)
        if self._replaced >= _REPLACED_TRIES:
            self._call.corrupt[self._slot] = CorruptRecordError(
                "replaced", f"it was replaced {_REPLACED_TRIES} times while it was read", removable=False
            )
            return
        self._call.add(_Fetch(self._call, self._slot, self._key, self._name, self._replaced + 1))

    # ------------------------------------------------------------------------------------------------- checking

    def _checked_length(self, connection: HTTPConnection, head: ResponseHead) -> int:
        if head.headers.get("content-encoding", "identity").lower() not in {"", "identity", "aws-chunked"}:
            raise connection.broken("an object that something on the way has encoded")
        if head.length is None:
            raise connection.broken("an object without a Content-Length")
        if head.length > self._call.limit:
            connection.close()
            raise ValueTooLargeError(connection.store, head.length, self._call.limit)
        return head.length

    def _content_range(self, connection: HTTPConnection, head: ResponseHead) -> tuple[int, int, int]:
        """Start, end and the object's whole length."""
        length = self._checked_length(connection, head)
        found = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", ""))
        if found is None:
            raise connection.broken("a part of an object that does not say which")
        start, last, total = map(int, found.groups())
        if last < start or last + 1 - start != length or last >= total:
            raise connection.broken(f"{length} bytes as bytes {start} to {last} of {total}")
        if total > self._call.limit:
            connection.close()
            raise ValueTooLargeError(connection.store, total, self._call.limit)
        return start, last + 1, total

    async def _header(
        self, connection: HTTPConnection, requests: Requests, head: ResponseHead, total: int
    ) -> FrameHeader:
        stream = connection.stream
        if total < MIN_HEADER_BYTES + TRAILER_BYTES:
            document = await connection.read_body(head, MAX_ERROR_BYTES)
            self._check_document(document, requests, head)
            raise CorruptRecordError("short", f"a value of {total} bytes is no record")
        prefix = bytes(await stream.peek(8))
        if prefix.lstrip()[:1] == b"<" and total <= MAX_ERROR_BYTES:
            document = await connection.read_body(head, MAX_ERROR_BYTES)
            self._check_document(document, requests, head)
            raise CorruptRecordError("magic", "it is a document, not a record")
        length = header_length(prefix)
        if length + TRAILER_BYTES > total or length > (head.length or 0):
            raise CorruptRecordError("short", f"a value of {total} bytes with a header of {length}")
        header = decode_header(await stream.peek(length), self._key, total)
        if header.is_striped:
            raise CorruptRecordError("striped", "a chunk of parts, which no object is", removable=False)
        return header

    def _check_document(self, document: bytes, requests: Requests, head: ResponseHead) -> None:
        """Some servers begin an answer before they know that it fails: 200, and an error in place of the object."""
        if (error := error_of(document)) is not None:
            failure = refusal(requests.store, head.status, *error, head.headers, "get")
            raise (
                failure
                if failure.retryable or failure.permanent
                else StoreProtocolError(requests.store, failure.message)
            )

    async def _skip(self, connection: HTTPConnection, head: ResponseHead) -> None:
        """Takes the rest of a body, where that is little; otherwise the connection is closed."""
        if connection.is_read or not connection.stream.is_open:
            return
        if (head.length or 0) <= _SKIPPED_BYTES:
            await connection.stream.discard(head.length or 0)
            connection.finished(head)
        else:
            connection.close()


def _is_part(head: ResponseHead) -> bool:
    # rclone answers ranges with 200, and says in Content-Range what it sends.
    return head.status == 206 or (head.status == 200 and "content-range" in head.headers)


def _spans(start: int, total: int, size: int) -> list[tuple[int, int]]:
    """What is left of an object from `start` on, cut into spans of about `size` bytes."""
    if start >= total:
        return []
    count = max(1, round((total - start) / max(size, 1)))
    step = -(-(total - start) // count)
    return [(first, min(first + step, total)) for first in range(start, total, step)]


async def _hash(incoming: _Incoming, is_lent: bool) -> None:
    assert incoming.hasher is not None  # noqa: S101  # who calls has looked
    with incoming.obj.byte_array as view:
        for start in range(0, len(view), _HASHED_PIECE):
            incoming.hasher.update(view[start : start + _HASHED_PIECE])
            if not is_lent:
                await anyio.lowlevel.checkpoint()
