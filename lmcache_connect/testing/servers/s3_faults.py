"""`Fault` and its kinds: the ways in which the answer of an S3 server goes wrong."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

XML: Final = '<?xml version="1.0" encoding="UTF-8"?>'


@dataclass(frozen=True)
class Request:
    """A client's request. Names of headers are in lower case."""

    method: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass
class Reply:
    """The answer of the server."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    has_body: bool = True

    def head(self, length: str | None = "") -> bytes:
        """Status line and headers. `length` replaces the body's length; None leaves out Content-Length."""
        lines = [f"HTTP/1.1 {self.status} X"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if length is not None:
            lines.append(f"Content-Length: {length or len(self.body)}")
        return "\r\n".join((*lines, "", "")).encode("latin-1")


class Fault:
    """One fault. `edit` changes the reply, and `send` sends it and returns whether the connection stays open."""

    def edit(self, reply: Reply, request: Request) -> None:
        """Changes the reply."""

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        """Sends the reply."""
        sock.sendall(reply.head() + (reply.body if reply.has_body else b""))
        return True


@dataclass
class CutBody(Fault):
    """The connection ends after `after` bytes of the body; with `reset` by a TCP reset."""

    after: int
    reset: bool = False

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(reply.head() + reply.body[: self.after])
        if self.reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@dataclass
class Refuse(Fault):
    """An error of S3, with its status, code and further headers."""

    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)

    def edit(self, reply: Reply, request: Request) -> None:
        body = f"{XML}<Error><Code>{self.code}</Code><Message>as planned</Message></Error>".encode()
        reply.status, reply.body = self.status, body if request.method != "HEAD" else b""
        reply.has_body = request.method != "HEAD"
        reply.headers = {"Content-Type": "application/xml", **self.headers}


@dataclass
class Length(Fault):
    """A wrong Content-Length. None leaves it out, and the end of the connection ends the body."""

    value: str | None

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(reply.head(self.value) + reply.body)
        return False


@dataclass
class Header(Fault):
    """One more header, or another value for one."""

    name: str
    value: str

    def edit(self, reply: Reply, request: Request) -> None:
        reply.headers[self.name] = self.value


class Chunked(Fault):
    """The body in chunked transfer encoding, without a length."""

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        reply.headers["Transfer-Encoding"] = "chunked"
        sock.sendall(reply.head(None))
        for start in range(0, len(reply.body), 1 << 16):
            piece = reply.body[start : start + (1 << 16)]
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        return True


@dataclass
class Stall(Fault):
    """Nothing more after `after` bytes of the body, or nothing at all where that is negative. Keeps the connection."""

    after: int

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        if self.after >= 0:
            sock.sendall(reply.head() + reply.body[: self.after])
        stop.wait()
        return False


@dataclass
class Raw(Fault):
    """These bytes in place of the reply, and the end of the connection."""

    data: bytes

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(self.data)
        return False


@dataclass
class Trailing(Fault):
    """The reply, and unexpected bytes behind it. With `later` they come before the reply to the next request."""

    data: bytes
    later: bool = False

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        if not self.later:
            sock.sendall(reply.head() + (reply.body if reply.has_body else b"") + self.data)
            return True
        super().send(sock, reply, stop)
        # The next request on this connection is answered with these bytes first.
        sock.recv(1, socket.MSG_PEEK)
        sock.sendall(self.data)
        return True


@dataclass
class Preceded(Fault):
    """Other bytes before the reply, such as interim responses."""

    data: bytes

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(self.data)
        return super().send(sock, reply, stop)


class Hangup(Fault):
    """The reply, and then the end of the connection, without `Connection: close`."""

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        super().send(sock, reply, stop)
        return False


@dataclass
class Do(Fault):
    """Calls `change` before the reply is sent. It may edit the reply."""

    change: Callable[[Reply, Request], None]

    def edit(self, reply: Reply, request: Request) -> None:
        self.change(reply, request)
