"""`Requests`: the heads of requests to a bucket, and the errors for answers that refuse them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from lmcache_connect import StoreError

from .documents import error_of
from .failures import refusal
from .http_connection import HTTPConnection, ResponseHead
from .signer import EMPTY, ReadOnlyCredentials, Signer

MAX_ERROR_BYTES: Final = 64 << 10
"""The longest error document that is read."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")


class Requests:
    """Makes requests with one set of credentials. Safe in any thread."""

    def __init__(self, store: str, signer: Signer, credentials: ReadOnlyCredentials | None) -> None:
        self.store = store
        self.credentials = credentials
        self._signer = signer

    def head(
        self,
        method: str,
        name: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
        payload: str = EMPTY,
    ) -> bytes:
        """See `Signer.head`."""
        return self._signer.head(
            self.credentials, method, name, query=query, headers=headers, length=length, payload=payload
        )

    async def refused(self, connection: HTTPConnection, head: ResponseHead, operation: str) -> StoreError:
        """Reads the body of an answer that refuses a request. Returns the error that it stands for."""
        code = message = ""
        if head.has_body and (head.length is None or head.length <= MAX_ERROR_BYTES):
            code, message = error_of(await connection.read_body(head, MAX_ERROR_BYTES)) or ("", "")
        elif head.has_body:
            connection.close()
        return refusal(self.store, head.status, code, message, head.headers, operation)

    def refused_early(self, last_words: bytes, operation: str) -> StoreError | None:
        """Returns the error for an answer that came while the request was still being sent. None: it refuses nothing.

        `last_words` is what the server sent before it closed the connection.
        """
        status = _STATUS.match(last_words)
        if status is None or int(status[1]) < 300:
            return None
        code, message = error_of(last_words.partition(b"\r\n\r\n")[2]) or ("", "")
        return refusal(self.store, int(status[1]), code, message, {}, operation)
