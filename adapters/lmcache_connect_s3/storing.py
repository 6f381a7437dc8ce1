"""`Storing`: the chunks of one put or batched put, from the arena into objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from lmcache_connect.record import PayloadHasher
from lmcache_connect.streaming import Equipment
from lmcache_connect.transport import StreamClosedError, in_thread

from .http_connection import HTTPConnection, ResponseHead
from .object_checksum import ObjectChecksum
from .refusals import MAX_ERROR_BYTES, refused, refused_early, refused_late
from .request_crew import Job, RequestCrew
from .retries import Retries
from .signer import UNSIGNED
from .signing import CallSigner
from .stored_record import StoredRecord


class Storing(RequestCrew):
    """Stores objects, or the parts of one. After `run()` every one is stored."""

    def __init__(
        self,
        equipment: Equipment[HTTPConnection],
        retries: Retries,
        signer: CallSigner,
        headers: Mapping[str, str],
        *,
        signs_payload: bool,
        object_checksum: str,
    ) -> None:
        super().__init__(equipment, retries, signer)
        self.headers = headers
        self.signs_payload = signs_payload
        self.object_checksum = object_checksum

    def store_all(self, names: Sequence[str], records: Sequence[StoredRecord]) -> None:
        """Adds a job for every object."""
        self._pending.extend(_Put(self, name, record) for name, record in zip(names, records, strict=True))

    async def run(self) -> None:
        if self.signs_payload or self.object_checksum != "none":
            await in_thread(self._hash_all)  # a request's head names the hashes of its body
        await super().run()

    def _hash_all(self) -> None:
        for job in self._pending:
            if isinstance(job, _Put):
                job.hash()

    def store_parts(self, name: str, record: StoredRecord, upload: str, size: int) -> list[Part]:
        """Adds a job for every part of an object, and returns them. The payload must have been hashed."""
        parts = [
            Part(self, name, record, upload, number, start, min(start + size, record.length))
            for number, start in enumerate(range(0, record.length, size), 1)
        ]
        self._pending.extend(parts)
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
        connection.begin()
        try:
            if record.trailer is not None:
                first, body, last = record.cut(start, end)
                await connection.stream.send_framed(head + first, body, None, lambda: last)
            else:
                hasher = PayloadHasher()
                await connection.stream.send_framed(head + record.header, record.obj.byte_array, hasher, hasher.trailer)
            answer = await connection.read_head("PUT")
        except StreamClosedError as error:
            refusal = refused_early(connection.store, error.last_words, self.operation)
            if refusal is None:
                raise
            raise refusal from error.with_traceback(None)
        await self._check(connection, answer)

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

    async def _check(self, connection: HTTPConnection, answer: ResponseHead) -> None:
        if answer.status not in {200, 201, 204}:
            raise await refused(connection, answer, self.operation)
        body = await connection.read_body(answer, MAX_ERROR_BYTES)
        if (error := refused_late(connection.store, answer, body, self.operation)) is not None:
            raise error


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

    async def _check(self, connection: HTTPConnection, answer: ResponseHead) -> None:
        await super()._check(connection, answer)
        etag = answer.etag
        if etag is None:
            raise connection.broken("a part was stored without an ETag")
        self.etag = etag
