"""`BlockingTLS`: what Python's own `ssl.SSLSocket` gives, in a loop that does nothing else."""

from __future__ import annotations

import asyncio
import mmap
import socket
import ssl
from collections.abc import Sequence
from typing import ClassVar, Final
from urllib.parse import parse_qs, urlsplit

from .contender import Contender, MissingContenderError

_AHEAD: Final = 2
"""Requests that are under way: the server begins with one reply while another is received."""

_HEAD_BYTES: Final = 64


class BlockingTLS(Contender):
    """One blocking `SSLSocket` in a thread: `recv_into` and `sendall`, without checksums or deadlines."""

    name: ClassVar[str] = "blocking SSLSocket"

    def __init__(self) -> None:
        self._socket: ssl.SSLSocket | None = None
        self._staged: list[bytes] = []
        self._room: list[memoryview] = []
        self._received: list[memoryview | None] = []

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        """Connects, and touches the memory of `chunks` chunks, so that no page fault is measured."""
        parts = urlsplit(url)
        if parts.scheme != "rediss":
            raise MissingContenderError(f"{self.name} speaks TLS alone: give it rediss://, not {parts.scheme}://")
        context = ssl.create_default_context(cafile=parse_qs(parts.query)["ca_file"][0])
        sock = socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(sock, server_hostname=parts.hostname)
        self._ask(b"SELECT", (parts.path.strip("/") or "0").encode())
        self._take_ok()
        memory = memoryview(mmap.mmap(-1, chunk_bytes * chunks))
        for start in range(0, len(memory), mmap.PAGESIZE):
            memory[start] = 1
        self._room = [memory[index * chunk_bytes : (index + 1) * chunk_bytes] for index in range(chunks)]

    def stage(self, payloads: Sequence[bytes]) -> None:
        """Keeps the payloads, which nothing can change."""
        self._staged = list(payloads)

    async def put(self, keys: Sequence[str]) -> None:
        """Stores the staged payloads. Their replies are taken `_AHEAD` commands later."""
        await asyncio.to_thread(self._put, keys)

    def _put(self, keys: Sequence[str]) -> None:
        sock = self._connected()
        for index, (key, payload) in enumerate(zip(keys, self._staged, strict=False)):
            name = key.encode()
            sock.sendall(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, len(payload)))
            sock.sendall(payload)
            sock.sendall(b"\r\n")
            if index >= _AHEAD:
                self._take_ok()
        for _ in range(min(_AHEAD, len(keys))):
            self._take_ok()

    async def get(self, keys: Sequence[str]) -> None:
        """Receives each value into its memory."""
        await asyncio.to_thread(self._get, keys)

    async def get_one(self, key: str) -> None:
        """Receives one value."""
        await asyncio.to_thread(self._get, [key])

    def _get(self, keys: Sequence[str]) -> None:
        for key in keys[:_AHEAD]:
            self._ask(b"GET", key.encode())
        self._received = []
        for index, room in enumerate(self._room[: len(keys)]):
            self._received.append(self._take_value(room))
            if index + _AHEAD < len(keys):
                self._ask(b"GET", keys[index + _AHEAD].encode())

    def received(self) -> list[memoryview | None]:
        """The memory that the last fetch filled."""
        return list(self._received)

    def release(self) -> None:
        """Drops what was fetched. The memory is used again."""
        self._received = []

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """Looks up all keys in one write."""
        self._connected().sendall(b"".join(_command(b"EXISTS", key.encode()) for key in keys))
        return [self._take_line() == b":1" for _ in keys]

    async def close(self) -> None:
        """Disconnects, and drops the memory."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._staged, self._room, self._received = [], [], []

    def _connected(self) -> ssl.SSLSocket:
        if self._socket is None:
            raise ConnectionError(f"{self.name} is not connected")
        return self._socket

    def _ask(self, *words: bytes) -> None:
        self._connected().sendall(_command(*words))

    def _take_line(self) -> bytes:
        sock, line = self._connected(), bytearray()
        while not line.endswith(b"\r\n"):
            byte = sock.recv(1)  # from OpenSSL's buffer: a line is a few bytes of a record
            if not byte or len(line) > _HEAD_BYTES:
                raise ConnectionError(f"the server sent {bytes(line)!r} in the place of a line")
            line += byte
        return bytes(line[:-2])

    def _take_ok(self) -> None:
        if (line := self._take_line()) != b"+OK":
            raise ConnectionError(f"the server said {line!r}")

    def _take_value(self, room: memoryview) -> memoryview | None:
        line = self._take_line()
        if line == b"$-1":
            return None
        value = room[: int(line[1:])]
        receive, position = self._connected().recv_into, 0
        while position < len(value):
            count = receive(value[position:])
            if not count:
                raise ConnectionError("the server closed the connection")
            position += count
        if self._take_line():
            raise ConnectionError("a value was longer than its head says")
        return value


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
