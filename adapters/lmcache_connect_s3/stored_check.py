"""`StoredCheck`: asks a store whether it holds a record, where its answer to a put does not say so clearly."""

from __future__ import annotations

from .http_connection import HTTPConnection
from .job import Job
from .object_answer import ObjectAnswer, ObjectRequest, ObjectVersion, read_answer
from .signing import CallSigner


class StoredCheck(Job):
    """A GET of the last bytes of an object. They are the checksum of what was put, so few bytes tell of all of them.

    After it has run, `is_stored` says whether the object has the record's length and its trailer. A record without a
    checksum is compared by its length alone.
    """

    def __init__(self, signer: CallSigner, name: str, length: int, trailer: bytes) -> None:
        """`length` is the record's in bytes."""
        super().__init__()
        self.is_stored = False
        self._signer = signer
        self._trailer = trailer
        # The version has no ETag: nothing has told it.
        self._asked = ObjectRequest(name, length - len(trailer), length, ObjectVersion(length, None))

    async def run(self, connection: HTTPConnection) -> None:
        asked = self._asked
        await connection.request(self._signer.current.head("GET", asked.name, headers=asked.headers()))
        head = await connection.read_head("GET")
        answer = await read_answer(connection, head, asked, asked.end or 0)
        if isinstance(answer, ObjectAnswer):
            self.is_stored = await connection.read_body(answer.head, len(self._trailer)) == self._trailer
