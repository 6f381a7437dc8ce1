"""`BareSockets`: stores and loads of chunks with blocking sockets and nothing else, as a limit for every client.

It has no loop, no deadline, no failure handling and no key check. So a client can be as fast as this on a machine, and
hardly faster. With `hashes=True` each chunk is hashed in addition, as a client with checksums has to do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import xxhash

_AHEAD: Final = 4
"""Requests that are sent before the reply to the first of them is read."""


class BareSockets:
    """One connection and one thread for each share of a batch."""

    def __init__(self, host: str, port: int, connections: int, *, hashes: bool) -> None:
        self._sockets = [socket.create_connection((host, port), timeout=30) for _ in range(connections)]
        for each in self._sockets:
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.settimeout(None)  # with one, a call returns what is there, whatever MSG_WAITALL says
        self._hashes = hashes
        self._pool = ThreadPoolExecutor(connections)

    def store(self, keys: Sequence[str], views: Sequence[memoryview]) -> None:
        """Stores every chunk under its key, as one string."""
        self._share(self._store, keys, views)

    def load(self, keys: Sequence[str], views: Sequence[memoryview]) -> None:
        """Loads every chunk into its view. All of them have to be there, with the views' lengths."""
        self._share(self._load, keys, views)

    def close(self) -> None:
        self._pool.shutdown()
        for each in self._sockets:
            each.close()

    def _share(self, move: Callable[[socket.socket, list[Any]], None], keys: Any, views: Any) -> None:
        items = [*zip((key.encode() for key in keys), views, strict=True)]
        shares = [items[start :: len(self._sockets)] for start in range(len(self._sockets))]
        for _ in self._pool.map(move, self._sockets, shares):
            pass

    def _store(self, sock: socket.socket, items: list[tuple[bytes, memoryview]]) -> None:
        unread = 0
        for key, view in items:
            if self._hashes:
                xxhash.xxh3_128_digest(view)
            head = b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(view))
            sent = sock.sendmsg((head, view, b"\r\n")) - len(head)
            if sent < len(view) + 2:
                sock.sendall(view[max(sent, 0) :])
                sock.sendall(b"\r\n"[max(sent - len(view), 0) :])
            unread += 1
            if unread == _AHEAD:
                self._expect(sock, b"+OK\r\n")
                unread -= 1
        for _ in range(unread):
            self._expect(sock, b"+OK\r\n")

    def _load(self, sock: socket.socket, items: list[tuple[bytes, memoryview]]) -> None:
        requests = [b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key, _ in items]
        sock.sendall(b"".join(requests[:_AHEAD]))
        for number, (_, view) in enumerate(items):
            self._expect(sock, b"$%d\r\n" % len(view))
            sock.recv_into(view, len(view), socket.MSG_WAITALL)
            self._expect(sock, b"\r\n")
            if number + _AHEAD < len(items):
                sock.sendall(requests[number + _AHEAD])
            if self._hashes:
                xxhash.xxh3_128_digest(view)

    @staticmethod
    def _expect(sock: socket.socket, line: bytes) -> None:
        got = sock.recv(len(line), socket.MSG_WAITALL)
        if got != line:
            raise SystemExit(f"the server answered {got!r}; expected {line!r}")
