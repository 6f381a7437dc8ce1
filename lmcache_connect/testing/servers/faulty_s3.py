"""`FaultyS3Server`: an S3 server that answers as it is told to, for what no real one can be made to do.

    with FaultyS3Server() as server:
        server.plan("GET", CutBody(after=1000), times=1)
        ...  # something that is given server.url()
        assert server.requests[-1].headers["range"] == "bytes=1000-"

It keeps objects in memory, speaks raw HTTP/1.1 in threads of this process, listens on the loopback alone, and answers
GET (Range, If-Match), HEAD, PUT, DELETE, listings, batched deletion, multipart uploads and CreateSession as S3 does,
until a fault is planned for the next request of a kind. Signatures are not checked, but for access keys in `expired`.
"""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlencode
from xml.sax.saxutils import escape

from .s3 import ACCESS_KEY, BUCKET, SECRET_KEY

_HEAD_LIMIT: Final = 64 << 10
_BODY_LIMIT: Final = 256 << 20
_XML: Final = '<?xml version="1.0" encoding="UTF-8"?>'


@dataclass(frozen=True)
class Request:
    """What a client sent. Names of headers are in lower case."""

    method: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)


@dataclass
class Reply:
    """What is answered."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    has_body: bool = True

    def head(self, length: str | None = "") -> bytes:
        """Status line and headers; `length` in place of the body's, None for none."""
        lines = [f"HTTP/1.1 {self.status} X"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if length is not None:
            lines.append(f"Content-Length: {length or len(self.body)}")
        return "\r\n".join((*lines, "", "")).encode("latin-1")


class Fault:
    """One way to go wrong. `send` answers; False closes the connection."""

    def edit(self, reply: Reply, request: Request) -> None:
        """Changes what is answered."""

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        """Sends it."""
        sock.sendall(reply.head() + (reply.body if reply.has_body else b""))
        return True


@dataclass
class CutBody(Fault):
    """The connection ends after so many bytes of the body; with `reset` by RST."""

    after: int
    reset: bool = False

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(reply.head() + reply.body[: self.after])
        if self.reset:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@dataclass
class Refuse(Fault):
    """An error of S3's: its status, code, and maybe further headers."""

    status: int
    code: str
    headers: dict[str, str] = field(default_factory=dict)

    def edit(self, reply: Reply, request: Request) -> None:
        body = f"{_XML}<Error><Code>{self.code}</Code><Message>as planned</Message></Error>".encode()
        reply.status, reply.body = self.status, body if request.method != "HEAD" else b""
        reply.headers = {"Content-Type": "application/xml", **self.headers}


@dataclass
class Length(Fault):
    """Another Content-Length than the body's; None leaves it out, and the end of the connection ends the body."""

    value: str | None

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(reply.head(self.value) + reply.body)
        return False


@dataclass
class Header(Fault):
    """One more header, or another value of one."""

    name: str
    value: str

    def edit(self, reply: Reply, request: Request) -> None:
        reply.headers[self.name] = self.value


class Chunked(Fault):
    """The body in chunks, without a length."""

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
    """Nothing more after so many bytes of the body; before the head where that is negative. The connection stays."""

    after: int

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        if self.after >= 0:
            sock.sendall(reply.head() + reply.body[: self.after])
        stop.wait()
        return False


@dataclass
class Raw(Fault):
    """These bytes, whatever they are, and the end of the connection."""

    data: bytes

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(self.data)
        return False


@dataclass
class Trailing(Fault):
    """The answer, and bytes behind it that nobody asked for; `later`, when the client has read the answer."""

    data: bytes
    later: bool = False

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        if not self.later:
            sock.sendall(reply.head() + (reply.body if reply.has_body else b"") + self.data)
            return True
        super().send(sock, reply, stop)
        # The next request on this connection gets this answer, and then its own.
        sock.recv(1, socket.MSG_PEEK)
        sock.sendall(self.data)
        return True


@dataclass
class Preceded(Fault):
    """Other bytes before the answer, such as interim answers."""

    data: bytes

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        sock.sendall(self.data)
        return super().send(sock, reply, stop)


class Hangup(Fault):
    """The answer, and then the end of the connection, without a word."""

    def send(self, sock: socket.socket, reply: Reply, stop: threading.Event) -> bool:
        super().send(sock, reply, stop)
        return False


@dataclass
class Do(Fault):
    """Something else before the answer, which `change` may edit."""

    change: Callable[[Reply, Request], None]

    def edit(self, reply: Reply, request: Request) -> None:
        self.change(reply, request)


class FaultyS3Server:
    """See the module. `objects` are the bucket's, by name; `requests` what was asked, in order."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.headers: dict[str, dict[str, str]] = {}
        """The headers that each object was put with."""
        self.expired: set[str] = set()
        """Access keys that are answered with ExpiredToken."""
        self.session_key = "session-key"
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._begun = 0
        self._plans: dict[str, list[Fault]] = {}
        self._always: dict[str, Fault] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._socks: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def url(self, prefix: str = "", bucket: str = BUCKET, **options: object) -> str:
        """The URL for a connector, credentials and endpoint included."""
        settings: dict[str, object] = {
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "access_key": ACCESS_KEY,
            "secret_key": SECRET_KEY,
            **options,
        }
        given = {name: str(value) for name, value in settings.items() if value is not None}
        return f"s3://{bucket}{'/' if prefix else ''}{prefix}?{urlencode(given)}"

    def plan(self, method: str, fault: Fault, times: int | None = 1) -> None:
        """The next `times` requests with this method go wrong in this way; None: all from now on."""
        with self._lock:
            if times is None:
                self._always[method] = fault
            else:
                self._plans.setdefault(method, []).extend([fault] * times)

    def asked(self, method: str) -> list[Request]:
        """The requests with this method."""
        return [request for request in self.requests if request.method == method]

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._accept, name="faulty s3", daemon=True)
        thread.start()
        self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        # A listener that is shut down wakes up whoever accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            socks = list(self._socks)
        for sock in socks:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(5)

    # --------------------------------------------------------------------------------------------- connections

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._socks.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), name="faulty s3 connection", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        try:
            with sock, sock.makefile("rb") as incoming:
                while (request := _read(incoming)) is not None:
                    with self._lock:
                        self.requests.append(request)
                        waiting = self._plans.get(request.method)
                        fault = waiting.pop(0) if waiting else self._always.get(request.method, Fault())
                    reply = self._answer(request)
                    fault.edit(reply, request)
                    if not fault.send(sock, reply, self._stop):
                        return
        except OSError:
            pass
        finally:
            with self._lock:
                self._socks.discard(sock)

    # ------------------------------------------------------------------------------------------------- answers

    def _answer(self, request: Request) -> Reply:
        key = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))
        if key is not None and key[1] in self.expired:
            return _refused(400, "ExpiredToken", request)
        if "session" in request.query:
            return _document(
                f"<CreateSessionResult><Credentials><SessionToken>a-session-token</SessionToken><SecretAccessKey>s3cret"
                f"</SecretAccessKey><AccessKeyId>{self.session_key}</AccessKeyId></Credentials></CreateSessionResult>"
            )
        if not request.name:
            return self._bucket(request)
        match request.method:
            case "GET" | "HEAD":
                return self._get(request)
            case "PUT":
                return self._put(request)
            case "DELETE":
                self._uploads.pop(request.query.get("uploadId", ""), None)
                if "uploadId" not in request.query:
                    self.objects.pop(request.name, None)
                return Reply(204, {}, has_body=False)
            case "POST":
                return self._post(request)
            case _:
                return _refused(405, "MethodNotAllowed", request)

    def _bucket(self, request: Request) -> Reply:
        if request.method == "HEAD":
            return Reply(200, {}, has_body=False)
        if request.method == "POST" and "delete" in request.query:
            for name in re.findall(r"<Key>(.*?)</Key>", request.body.decode()):
                self.objects.pop(name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), None)
            return _document("<DeleteResult></DeleteResult>")
        prefix, after = request.query.get("prefix", ""), request.query.get("continuation-token", "")
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        page = names[:1000]
        rest = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(names) > 1000 else ""
        items = "".join(f"<Contents><Key>{escape(name)}</Key></Contents>" for name in page)
        truncated = "true" if rest else "false"
        return _document(f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{rest}{items}</ListBucketResult>")

    def _get(self, request: Request) -> Reply:
        found = self.objects.get(request.name)
        if found is None:
            return _refused(404, "NoSuchKey", request)
        etag = f'"{hashlib.md5(found, usedforsecurity=False).hexdigest()}"'
        if request.headers.get("if-match", etag) != etag:
            return _refused(412, "PreconditionFailed", request)
        reply = Reply(200, {"ETag": etag}, found)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        if wanted is not None and request.method == "GET":
            start, last = int(wanted[1]), int(wanted[2] or len(found) - 1)
            last = min(last, len(found) - 1)
            if start > last:
                return _refused(416, "InvalidRange", request)
            reply.status, reply.body = 206, found[start : last + 1]
            reply.headers["Content-Range"] = f"bytes {start}-{last}/{len(found)}"
        reply.has_body = request.method == "GET"
        return reply

    def _put(self, request: Request) -> Reply:
        etag = f'"{hashlib.md5(request.body, usedforsecurity=False).hexdigest()}"'
        if (upload := request.query.get("uploadId")) is not None:
            if upload not in self._uploads:
                return _refused(404, "NoSuchUpload", request)
            self._uploads[upload][int(request.query["partNumber"])] = request.body
        else:
            self.objects[request.name] = request.body
            self.headers[request.name] = request.headers
        return Reply(200, {"ETag": etag})

    def _post(self, request: Request) -> Reply:
        if "uploads" in request.query:
            self._begun += 1
            upload = f"upload-{self._begun}"
            self._uploads[upload] = {}
            self.headers[request.name] = request.headers
            return _document(
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        parts = self._uploads.pop(request.query.get("uploadId", ""), None)
        if parts is None:
            return _refused(404, "NoSuchUpload", request)
        numbers = list(map(int, re.findall(r"<PartNumber>(\d+)</PartNumber>", request.body.decode())))
        self.objects[request.name] = b"".join(parts[number] for number in numbers)
        return _document('<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>')

    @property
    def uploads(self) -> int:
        """Multipart uploads that were begun, and neither completed nor given up."""
        return len(self._uploads)


def _document(text: str) -> Reply:
    return Reply(200, {"Content-Type": "application/xml"}, f"{_XML}{text}".encode())


def _refused(status: int, code: str, request: Request) -> Reply:
    reply = Reply(status, {})
    Refuse(status, code).edit(reply, request)
    reply.has_body = request.method != "HEAD"
    return reply


def _read(incoming: object) -> Request | None:
    readline, read = incoming.readline, incoming.read  # type: ignore[attr-defined]  # a file
    line = readline(_HEAD_LIMIT).decode("latin-1").split(" ")
    if len(line) != 3:
        return None
    headers: dict[str, str] = {}
    while text := readline(_HEAD_LIMIT).decode("latin-1").strip():
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    length = min(int(headers.get("content-length", "0")), _BODY_LIMIT)
    body = read(length) if length else b""
    if len(body) < length:
        return None
    path, _, query = line[1].partition("?")
    _, _, name = unquote(path).lstrip("/").partition("/")
    return Request(line[0], name, dict(parse_qsl(query, keep_blank_values=True)), headers, body)
