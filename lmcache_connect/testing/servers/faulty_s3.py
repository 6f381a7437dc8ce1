"""`FaultyS3Server`: an S3 server with planned faults, for what a real server cannot be made to do.

    with FaultyS3Server() as server:
        server.plan("GET", CutBody(after=1000), times=1)
        ...  # something that is given server.url()
        assert server.requests[-1].headers["range"] == "bytes=1000-"

It keeps objects in memory, speaks HTTP/1.1 in threads of this process, and listens on 127.0.0.1. It answers as S3 does
until a fault is planned for the next request with a method. It knows GET (Range, If-Match), HEAD, PUT, DELETE
(If-Match), listings, batched deletion, multipart uploads and CreateSession. Signatures are not checked. Access keys in
`expired` are refused.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from .s3 import BUCKET, s3_url
from .s3_faults import XML, Fault, Refuse, Reply, Request

_HEAD_LIMIT: Final = 64 << 10
_BODY_LIMIT: Final = 256 << 20


class FaultyS3Server:
    """See the module. `objects` are those in the bucket, by name. `requests` are those received, in order."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.headers: dict[str, dict[str, str]] = {}
        """The headers that each object was put with."""
        self.expired: set[str] = set()
        """Access keys that are refused with ExpiredToken."""
        self.session_key = "session-key"
        self.has_conditional_removal = True
        """Whether a DELETE with If-Match removes only the object that has this ETag."""
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
        """The URL for a connector, with credentials and endpoint. An option that is None is left out."""
        return s3_url(prefix, bucket, {"endpoint": self.endpoint, **options})

    def plan(self, method: str, fault: Fault, times: int | None = 1) -> None:
        """Plans a fault for the next `times` requests with this method. None: for all from now on."""
        with self._lock:
            if times is None:
                self._always[method] = fault
            else:
                self._plans.setdefault(method, []).extend([fault] * times)

    def heal(self) -> None:
        """Forgets every fault that was planned, and every access key in `expired`."""
        with self._lock:
            self._plans.clear()
            self._always.clear()
            self.expired.clear()

    def asked(self, method: str) -> list[Request]:
        """The requests with this method, in order."""
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
        # Shutting the listener down wakes the thread that accepts.
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
                return self._delete(request)
            case "POST":
                return self._post(request)
            case _:
                return _refused(405, "MethodNotAllowed", request)

    def _bucket(self, request: Request) -> Reply:
        if request.method == "HEAD":
            return Reply(200, {}, has_body=False)
        if request.method == "POST" and "delete" in request.query:
            names = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
            for name in names:
                self.objects.pop(name.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), None)
            deleted = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
            return _document(f"<DeleteResult>{deleted}</DeleteResult>")
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
        etag = _etag(found)
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

    def _delete(self, request: Request) -> Reply:
        found = self.objects.get(request.name)
        wanted = request.headers.get("if-match") if self.has_conditional_removal else None
        if "uploadId" not in request.query:
            if wanted is not None and found is not None and wanted != _etag(found):
                return _refused(412, "PreconditionFailed", request)
            self.objects.pop(request.name, None)
        return Reply(204, {}, has_body=False)

    def _put(self, request: Request) -> Reply:
        etag = _etag(request.body)
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
        """The number of multipart uploads that were begun, and neither completed nor aborted."""
        return len(self._uploads)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _document(text: str) -> Reply:
    return Reply(200, {"Content-Type": "application/xml"}, f"{XML}{text}".encode())


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
