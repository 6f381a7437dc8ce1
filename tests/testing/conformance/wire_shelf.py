"""A shelf behind a TCP port, and a connector to it that keeps every rule: broken ones derive from it."""

from __future__ import annotations

import asyncio
import socketserver
import struct
import threading
from typing import Any, Final, Self

from lmcache_connect import Key, StoreUnavailableError

from .sound_connector import Shelf, ShelfSuite, SoundConnector

_HEAD: Final = struct.Struct(">cHQ")
_REPLY: Final = struct.Struct(">cQ")
MISS: Final = b"-"


class _Handler(socketserver.StreamRequestHandler):
    server: ShelfServer

    def handle(self) -> None:
        while head := self.rfile.read(_HEAD.size):
            if len(head) < _HEAD.size:
                return
            verb, name_bytes, nbytes = _HEAD.unpack(head)
            name, record = self.rfile.read(name_bytes).decode(), self.rfile.read(nbytes)
            if len(record) < nbytes:
                return
            records = self.server.shelf.records
            if verb == b"P":
                records[name] = record
            found = records.get(name)
            answer = b"" if found is None or verb != b"G" else found
            self.wfile.write(_REPLY.pack(MISS if found is None else b"+", len(answer)) + answer)


class ShelfServer(socketserver.ThreadingTCPServer):
    """Serves a shelf on a port of 127.0.0.1, in threads."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shelf = shelf
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is what the tests are for."""


class WireConnector(SoundConnector):
    """Opens a connection for every call. A shelf's other operations reach past the wire."""

    @property
    def address(self) -> tuple[str, int]:
        (where,) = self.context.remote_url.hosts
        assert where.port is not None
        return where.host, where.port

    async def ask(self, verb: bytes, name: str, record: bytes = b"") -> bytes | None:
        await self.turn()
        try:
            reader, writer = await asyncio.open_connection(*self.address)
            try:
                writer.write(request(verb, name, record))
                return await reply(reader)
            finally:
                writer.transport.abort()
        except (OSError, EOFError) as error:
            raise StoreUnavailableError("shelf://", f"the connection failed: {error!r}") from error

    async def exists(self, key: Key) -> bool:
        return await self.ask(b"E", self.name(key)) is not None

    async def load(self, name: str) -> bytes | None:
        return await self.ask(b"G", name)

    async def store(self, name: str, record: bytes) -> None:
        await self.ask(b"P", name, record)
        self.note_end(name)

    async def remove(self, key: Key) -> bool:
        await self.ask(b"E", "")
        return await super().remove(key)

    async def list(self) -> list[str]:
        await self.ask(b"E", "")
        return await super().list()

    async def ping(self) -> int:
        await self.ask(b"E", "")
        return 0


def request(verb: bytes, name: str, record: bytes = b"") -> bytes:
    """A request, as it goes over the wire."""
    encoded = name.encode()
    return _HEAD.pack(verb, len(encoded), len(record)) + encoded + record


async def reply(reader: asyncio.StreamReader) -> bytes | None:
    """The next reply. Raises `EOFError`, or `OSError`."""
    status, nbytes = _REPLY.unpack(await reader.readexactly(_REPLY.size))
    answer = await reader.readexactly(nbytes)
    return None if status == MISS else answer


def reply_from(file: Any) -> bytes | None:
    """The next reply of a blocking file."""
    status, nbytes = _REPLY.unpack(file.read(_REPLY.size))
    answer: bytes = file.read(nbytes)
    return None if status == MISS else answer


class WireSuite(ShelfSuite):
    """The suite on a shelf behind a port, which rules reach through a fault proxy."""

    made = WireConnector

    def setup_method(self) -> None:
        super().setup_method()
        self.server = ShelfServer(self.shelf).__enter__()
        self.store_address = self.server.address
        self.url = f"shelf://{self.store_address}"

    def teardown_method(self) -> None:
        self.server.__exit__()
        super().teardown_method()
