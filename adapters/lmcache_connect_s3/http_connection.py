"""`HTTPConnection`: HTTP/1.1 on a byte stream. aiohttp's parser reads the heads; bodies are not copied."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from lmcache_connect.errors import MissingExtraError, StoreProtocolError
from lmcache_connect.transport import ConnectionPool, Stream, StreamClosedError

try:
    from aiohttp.base_protocol import BaseProtocol
    from aiohttp.http_exceptions import HttpProcessingError
    from aiohttp.http_parser import HttpResponseParser
except ImportError as missing:
    raise MissingExtraError("s3://", missing.name or "aiohttp", "s3") from missing

MAX_HEAD_BYTES: Final = 32 << 10
"""The longest status line and headers of an answer."""

_MAX_FIELD_BYTES: Final = 8190
_MAX_INTERIMS: Final = 8
_PIECE: Final = 16 << 10


@dataclass(frozen=True)
class ResponseHead:
    """An answer's status line and headers.

    Attributes:
        status: three digits.
        headers: by name in lower case.
        length: the body's in bytes, where the server says it.
        has_body: whether a body follows, which has to be read before the next request.
        is_chunked: whether the body comes in chunks of HTTP's own.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    has_body: bool
    is_chunked: bool

    @property
    def etag(self) -> str | None:
        """The name of the object's content. None where the server sends none that a condition may name."""
        etag = self.headers.get("etag", "")
        return etag if etag.startswith('"') and etag.isascii() and etag.isprintable() and len(etag) < 256 else None


class _Unread(NamedTuple):
    """An answer that has not been read to its end."""

    parser: Any
    payload: Any
    closes: bool


class HTTPConnection:
    """A connection that is ready for a request. If an answer was not read to its end, it takes no other request.

    In a thread that has taken over its wire, nothing here suspends.
    """

    __slots__ = ("_is_answered", "_is_clean", "_protocol", "_unread", "requests", "store", "stream")

    def __init__(self, stream: Stream, store: str, protocol: BaseProtocol) -> None:
        self.stream = stream
        self.store = store
        self.requests = 0
        """Requests that were sent."""
        self._protocol = protocol
        self._is_clean = True
        self._is_answered = False
        self._unread: _Unread | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the stream stands where the next answer may start."""
        return self._is_clean and self.stream.is_open and not self.stream.buffered

    @property
    def is_read(self) -> bool:
        """Whether the last answer was read to its end. The server may close the connection all the same."""
        return self._unread is None

    def was_stale(self, error: BaseException | None) -> bool:
        """Whether `error` came because the server had closed this kept connection before the last request reached it.

        Such a request was not answered, so it can be made again at once.
        """
        is_kept = self.requests > 1 and not self._is_answered
        return is_kept and isinstance(error, StreamClosedError) and not error.last_words

    def close(self) -> None:
        """Closes the stream at once."""
        self.stream.close()

    def begin(self) -> None:
        """A request is being sent. Until its answer was read, the connection cannot take another one."""
        self._is_clean = self._is_answered = False
        self.requests += 1

    async def request(self, head: bytes, body: bytes = b"") -> None:
        """Sends a request whose body is small."""
        self.begin()
        await self.stream.send(head + body)

    async def read_head(self, method: str) -> ResponseHead:
        """Returns the answer's head. Passes over interim answers (1xx).

        Raises:
            StreamClosedError: the connection ended.
            StoreProtocolError: what came is not HTTP, or the head is too long.
        """
        for _ in range(_MAX_INTERIMS):
            head = self._parse(await self._read_head_bytes(), method)
            self._is_answered = True
            if head.status >= 200:
                return head
        raise self.broken(f"more than {_MAX_INTERIMS} interim answers")

    async def _read_head_bytes(self) -> bytes:
        stream = self.stream
        searched = 0
        while True:
            buffered = bytes(await stream.peek(stream.buffered))
            end = buffered.find(b"\r\n\r\n", max(0, searched - 3))
            if end >= 0:
                stream.take(end + 4)
                return buffered[: end + 4]
            if len(buffered) >= MAX_HEAD_BYTES:
                raise self.broken(f"a head of more than {MAX_HEAD_BYTES} bytes")
            searched = len(buffered)
            await stream.peek(searched + 1)

    def _parse(self, head: bytes, method: str) -> ResponseHead:
        # A parser for each answer: it never sees the body of one that brings data.
        parser = HttpResponseParser(
            self._protocol,
            self._protocol._loop,
            _PIECE,
            max_line_size=_MAX_FIELD_BYTES,
            max_field_size=_MAX_FIELD_BYTES,
            auto_decompress=False,
            response_with_body=method != "HEAD",
        )
        try:
            messages, _, rest = parser.feed_data(head)
        except HttpProcessingError as error:
            raise self.broken(f"an answer that is not HTTP ({type(error).__name__})") from None
        if len(messages) != 1 or rest:
            raise self.broken("an answer that is not HTTP")
        message, payload = messages[0]
        has_body = method != "HEAD" and message.code >= 200 and message.code not in {204, 304}
        length = message.headers.get("content-length")
        if message.should_close:
            self._is_clean = False
        found = ResponseHead(
            message.code,
            {name.lower(): value for name, value in message.headers.items()},
            int(length) if length is not None else None,
            has_body and length != "0",
            message.chunked,
        )
        self._unread = _Unread(parser, payload, message.should_close)
        if message.code >= 200 and not found.has_body:
            self.finished(found)
        return found

    def finished(self, head: ResponseHead) -> None:
        """The answer was read to its end. The connection may be used again, unless the server closes it."""
        if head.length is None and head.has_body and not head.is_chunked:
            return  # such an answer ends with the connection
        self._is_clean = self._unread is not None and not self._unread.closes
        self._unread = None

    async def read_body(self, head: ResponseHead, limit: int) -> bytes:
        """Returns a whole body of at most `limit` bytes.

        Raises:
            StreamClosedError: the connection ended before the body.
            StoreProtocolError: the body is longer, or cannot be read.
        """
        if not head.has_body:
            return b""
        if head.is_chunked:
            return await self._read_chunked(head, limit)
        if head.length is None:
            return await self._read_to_the_end(limit)
        if head.length > limit:
            raise self.broken(f"a body of {head.length} bytes; expected at most {limit}")
        body = bytearray(head.length)
        await self.stream.receive_into(memoryview(body))
        self.finished(head)
        return bytes(body)

    async def _read_chunked(self, head: ResponseHead, limit: int) -> bytes:
        assert self._unread is not None  # noqa: S101  # the head says that a body follows
        parser, payload, _ = self._unread
        found = bytearray()
        while not payload.is_eof():
            piece = await self.stream.read_some(_PIECE)
            if not piece:
                raise self.broken("a chunked body that ends before its end")
            try:
                _, _, rest = parser.feed_data(piece)
            except HttpProcessingError as error:
                raise self.broken(f"a chunked body that cannot be read ({type(error).__name__})") from None
            if payload.exception() is not None:
                raise self.broken("a chunked body that cannot be read")
            found += payload.read_nowait(-1)
            if len(found) > limit:
                raise self.broken(f"a body of more than {limit} bytes")
            if payload.is_eof() and rest:
                self.close()  # something follows that was not asked for
        self.finished(head)
        return bytes(found)

    async def _read_to_the_end(self, limit: int) -> bytes:
        found = bytearray()
        while piece := await self.stream.read_some(_PIECE):
            found += piece
            if len(found) > limit:
                raise self.broken(f"a body of more than {limit} bytes")
        self.close()
        return bytes(found)

    def broken(self, reason: str) -> StoreProtocolError:
        """Closes the stream, because what follows on it cannot be understood. Returns the error to raise."""
        self.close()
        return StoreProtocolError(self.store, f"the server's answer breaks the protocol: {reason}")


def parser_protocol(loop: asyncio.AbstractEventLoop) -> BaseProtocol:
    """Returns the object that aiohttp's parsers belong to. One serves all connections of an event loop."""
    return BaseProtocol(loop)


Pool: TypeAlias = ConnectionPool[HTTPConnection]
