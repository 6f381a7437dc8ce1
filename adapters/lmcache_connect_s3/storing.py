"""`Storing`: the chunks of one put or batched put, into objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from lmcache_connect.record import PayloadHasher
from lmcache_connect.transport import StreamClosedError, in_thread

from .documents import without_lead
from .http_connection import HTTPConnection, ResponseHead
from .job import Job
from .object_checksum import ObjectChecksum
from .refusals import MAX_ERROR_BYTES, refused, refused_early, refused_late
from .request_call import RequestCall, RequestServer
from .retries import Retries
from .signer import UNSIGNED
from .signing import CallSigner
from .stored_check import StoredCheck
from .stored_record import StoredRecord

_MAX_ETAG: Final = 256
"""The longest ETag of a part in characters. Those of all parts stand in the completion."""


_STORED_PER_SECOND: Final = 8 << 20
"""Bytes that a store which says nothing stores in a second, at its worst. `stall_timeout` holds where it is longer."""


class Storing(RequestCall):
    """Stores objects, or the parts of one. After `run()` every one is stored."""

    def __init__(
        self,
        server: RequestServer,
        retries: Retries,
        signer: CallSigner,
        headers: Mapping[str, str],
        *,
        signs_payload: bool,
        object_checksum: str,
    ) -> None:
        super().__init__(server, retries, signer)
        self.headers = headers
        self.signs_payload = signs_payload
        self.object_checksum = object_checksum

    def store_all(self, names: Sequence[str], records: Sequence[StoredRecord]) -> None:
        """Adds a job for every object."""
        self.pending.extend(_Put(self, name, record) for name, record in zip(names, records, strict=True))

    async def run(self) -> None:
        if self.signs_payload or self.object_checksum != "none":
            await in_thread(self._hash_all)  # a request's head names the hashes of its body
        await super().run()

    def _hash_all(self) -> None:
        for job in self.pending:
            if isinstance(job, _Put):
                job.hash()

    def check(self, name: str, record: StoredRecord) -> StoredCheck:
        """Adds a job that asks whether a record is stored, and returns it. The payload must have been hashed."""
        assert record.trailer is not None  # noqa: S101  # the caller has hashed
        check = StoredCheck(self.signer, name, record.length, record.trailer)
        self.pending.append(check)
        return check

    def store_parts(self, name: str, record: StoredRecord, upload: str, size: int) -> list[Part]:
        """Adds a job for every part of an object, and returns them. The payload must have been hashed."""
        parts = [
            Part(self, name, record, upload, number, start, min(start + size, record.length))
            for number, start in enumerate(range(0, record.length, size), 1)
        ]
        self.pending.extend(parts)
        return parts


class _Put(Job):
    """The PUT of one object."""

    operation = "put"

    def __init__(self, call: Storing, name: str, record: StoredRecord) -> None:
        super().__init__()
        self._call = call
        self._name = name
        self._record = record
        self._query: dict[str, str] = {}
        self._span = (0, record.length)
        self._payload = UNSIGNED
        self._checksum: dict[str, str] = {}

    async def run(self, connection: HTTPConnection) -> None:
        call, record = self._call, self._record
        start, end = self._span
        headers = {**self._headers(), **self._checksum}
        head = call.signer.current.head(
            "PUT", self._name, query=self._query, headers=headers, length=end - start, payload=self._payload
        )
        trailer = record.trailer
        connection.begin()
        try:
            if trailer is not None:
                first, body, last = record.cut(start, end)
                await connection.stream.send_framed(head + first, body, None, lambda: last)
            else:
                hasher = PayloadHasher()
                await connection.stream.send_framed(head + record.header, record.payload(), hasher, hasher.trailer)
                trailer = hasher.trailer()
            # What was received whole is still to be stored, which takes some stores a while.
            with connection.stream.answering_within((end - start) / _STORED_PER_SECOND):
                answer = await connection.read_head("PUT")
        except StreamClosedError as error:
            refusal = refused_early(connection.store, error.last_words, self.operation)
            if refusal is None:
                raise
            raise refusal from error.with_traceback(None)
        await self._check(connection, answer, trailer)

    def _headers(self) -> Mapping[str, str]:
        return self._call.headers

    def hash(self) -> None:
        """Makes the hashes in the request's head. Reads the whole body, so it must not run on an event loop."""
        call, record = self._call, self._record
        record.hash_payload()
        if call.object_checksum != "none":
            checksum = ObjectChecksum(call.object_checksum)
            record.feed(checksum.update, *self._span)
            self._checksum = {checksum.header: checksum.value()}
        if call.signs_payload:
            digest = hashlib.sha256()
            record.feed(digest.update, *self._span)
            self._payload = digest.hexdigest()

    async def _check(self, connection: HTTPConnection, answer: ResponseHead, trailer: bytes) -> None:
        """Checks that the store has stored what was sent. `trailer` is that of the record."""
        body = await self._read_answer(connection, answer)
        # S3 sends an ETag and no body. Servers that are less of S3 say `created` or `no content`, and neither.
        if not without_lead(body) and (answer.status != 200 or "etag" in answer.headers):
            return
        if not connection.is_reusable:
            raise connection.broken("an answer to a put that says neither that it is stored nor that it is not")
        check = StoredCheck(self._call.signer, self._name, self._record.length, trailer)
        await check.run(connection)
        if not check.is_stored:
            raise connection.broken("an answer to a put that looks like success, and the object is not there")

    async def _read_answer(self, connection: HTTPConnection, answer: ResponseHead) -> bytes:
        if answer.status not in {200, 201, 204}:
            raise await refused(connection, answer, self.operation)
        body = await connection.read_body(answer, MAX_ERROR_BYTES)
        if (error := refused_late(connection.store, answer, body, self.operation)) is not None:
            raise error
        return body


class Part(_Put):
    """The PUT of one part of an object. `etag` is set when the part is stored."""

    operation = "put of a part"

    def __init__(
        self, call: Storing, name: str, record: StoredRecord, upload: str, number: int, start: int, end: int
    ) -> None:
        super().__init__(call, name, record)
        self.number = number
        self.etag = ""
        self._query = {"partNumber": str(number), "uploadId": upload}
        self._span = (start, end)

    def _headers(self) -> Mapping[str, str]:
        return {}

    @property
    def checksum(self) -> str:
        """S3's own checksum of the part; "" if it has none."""
        return next(iter(self._checksum.values()), "")

    async def _check(self, connection: HTTPConnection, answer: ResponseHead, trailer: bytes) -> None:
        await self._read_answer(connection, answer)
        etag = answer.headers.get("etag", "")  # sent as it came: some servers leave out the quotes
        if not etag or len(etag) > _MAX_ETAG or not etag.isascii() or not etag.isprintable():
            raise connection.broken("a part was stored without an ETag")
        self.etag = etag
