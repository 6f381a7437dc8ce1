"""Peers that repeat whatever they are told, and a plug-in whose errors hold all its settings."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import escape

from lmcache_connect import RemoteConnector


@asynccontextmanager
async def listening(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    """A server on 127.0.0.1 that answers each packet by `answer`. Yields its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(answer(data))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def _words(data: bytes) -> str:
    """What a Redis server was sent, in one line."""
    return " ".join(f"'{line}'" for line in data.decode("utf-8", "replace").split("\r\n") if line[:1] not in {"*", "$"})


REDIS: dict[str, Callable[[bytes], bytes]] = {
    "an error with the arguments": lambda data: f"-ERR unknown command, with args: {_words(data)}\r\n".encode(),
    "an error cut short": lambda data: f"-ERR beginning with: {_words(data)[:19]}\r\n".encode(),
    "a wrong password, encoded": lambda data: f"-WRONGPASS {quote(_words(data))}\r\n".encode(),
    "a wrong password, in base64": lambda data: b"-WRONGPASS %b\r\n" % base64.b64encode(data),
    "no protocol at all": lambda data: b"!" + data,
    "a status": lambda data: f"+{_words(data)}\r\n".encode() * 8,
}


def s3_answer(token: str, how: Callable[[str], str]) -> Callable[[bytes], bytes]:
    """An S3 server that refuses each request, and repeats `token` in the error's code and message."""

    def answer(_: bytes) -> bytes:
        said = escape(how(token))
        body = f"<Error><Code>Bad{said}</Code><Message>the token {said} is bad</Message></Error>".encode()
        return b"HTTP/1.1 400 Bad\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    return answer


class TalkativeError(Exception):
    """A plug-in's own."""


class Talkative(RemoteConnector):
    """A connector that tells its settings in each of its errors."""

    def __init__(self, context: Any = None, **settings: Any) -> None:
        self.settings = settings
        if settings.get("fails_at_once"):
            self._fail()

    def _fail(self) -> Any:
        try:
            raise OSError(f"inner: {self.settings}")
        except OSError as error:
            failure = TalkativeError(f"cannot log in with {self.settings!r}")
            failure.add_note(f"noted: {self.settings}")
            raise failure from error

    async def exists(self, key: Any) -> bool:
        return bool(self._fail())

    async def get(self, key: Any) -> Any:
        return self._fail()

    async def put(self, key: Any, memory_obj: Any) -> None:
        self._fail()

    async def list(self) -> list[str]:
        return list(self._fail())

    async def ping(self) -> int:
        return int(self._fail())

    def support_ping(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing to close."""
