"""Reading what a server refuses: an answer with an error status, or an error document in place of something else."""

from __future__ import annotations

import re
from typing import Final

from lmcache_connect import StoreError

from .documents import error_of
from .failures import refusal
from .http_connection import HTTPConnection, ResponseHead

MAX_ERROR_BYTES: Final = 64 << 10
"""The longest error document that is read."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})")


async def refused(connection: HTTPConnection, head: ResponseHead, operation: str) -> StoreError:
    """Reads the body of an answer that refuses a request. Returns the error that it stands for."""
    body = b""
    if head.has_body and (head.length is None or head.length <= MAX_ERROR_BYTES):
        body = await connection.read_body(head, MAX_ERROR_BYTES)
    elif head.has_body:
        connection.close()
    return refusal(connection.store, operation, head.status, head.headers, error_of(body))


def refused_early(store: str, last_words: bytes, operation: str) -> StoreError | None:
    """Returns the error for an answer that came while the request was still being sent. None: it refuses nothing.

    `last_words` is what the server sent before it closed the connection.
    """
    status = _STATUS.match(last_words)
    if status is None or int(status[1]) < 300:
        return None
    head, _, body = last_words.partition(b"\r\n\r\n")
    # It is for the hints in it alone (Retry-After): nothing else is read over this connection.
    lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    return refusal(store, operation, int(status[1]), headers, error_of(body))


def refused_late(store: str, head: ResponseHead, body: bytes, operation: str) -> StoreError | None:
    """Returns the error for an error document in an answer whose status says success. None: it is something else.

    Some servers begin an answer before they know that it fails.
    """
    error = error_of(body)
    return refusal(store, operation, head.status, head.headers, error) if error is not None else None
