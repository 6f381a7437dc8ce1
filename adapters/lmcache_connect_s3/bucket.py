"""`Bucket`: the requests to a bucket that move no chunks: look-ups, listings, removals, multipart uploads."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from xml.sax.saxutils import escape

import anyio

from lmcache_connect import StoreError
from lmcache_connect.contract import seconds_left
from lmcache_connect.errors import StoreProtocolError
from lmcache_connect.transport import in_thread

from .documents import MAX_DOCUMENT_BYTES, DocumentError, Page, deletions, page_of, text_of
from .failures import AccessDeniedError, NoSuchBucketError, refusal
from .http_connection import HTTPConnection, Pool, ResponseHead
from .refusals import MAX_ERROR_BYTES, refused, refused_late
from .retries import Retries, Tries
from .signing import Signing

_LARGE_BYTES: Final = 64 << 10
"""A longer document is read in a thread. On the event loop it would take milliseconds."""

_WORK_SECONDS: Final = 60.0
"""How long the store may work silently on a request that is more than a look-up, inside the operation's deadline."""

T = TypeVar("T")


class StoredPart(Protocol):
    """A part of an upload that the store has taken: what the completion says of it. `checksum` may be empty."""

    @property
    def number(self) -> int: ...

    @property
    def etag(self) -> str: ...

    @property
    def checksum(self) -> str: ...


class Bucket:
    """Makes small requests, each of them again where that may help. Lives on one event loop."""

    def __init__(
        self,
        pool: Pool,
        signing: Signing,
        retries: Retries,
        ping_name: str,
    ) -> None:
        """`ping_name`: of an object that may be asked for in place of the bucket. It need not be there."""
        self._ping_name = ping_name
        self._pool = pool
        self._signing = signing
        self._retries = retries
        self._is_known = False

    async def exists(self, name: str, *, denied_is_missing: bool = False) -> bool:
        """Returns whether there is an object of this name.

        Raises:
            AccessDeniedError: access to it is denied, unless `denied_is_missing`.
        """
        head, _ = await self._ask("HEAD", name, operation="look-up", allowed=frozenset({200, 400, 403, 404}))
        if head.status == 400 or (head.status == 403 and not denied_is_missing):
            # A HEAD's answer has no body that would say why. A GET's has: credentials may have expired, for example.
            head = await self._get_first_byte(name, "look-up")
        if head.status == 404:
            await self.check()
        return head.status not in {403, 404}

    async def check(self) -> None:
        """Asks whether the bucket is there, if that is not known yet: an object may be missing together with it.

        Raises:
            NoSuchBucketError: the bucket does not exist.
        """
        if not self._is_known:
            await self.ping()

    async def ping(self) -> None:
        """Asks whether the bucket is there, and the store takes the credentials. They need no right to list it.

        Raises:
            NoSuchBucketError: the bucket does not exist.
        """
        head, _ = await self._ask("HEAD", "", operation="ping", allowed=frozenset({200, 204, 400, 403, 404, 405}))
        if head.status == 403:
            try:
                await self._get_first_byte(self._ping_name, "ping")
            except AccessDeniedError:
                pass  # it knows who asks: a wrong key or signature is another error
        if head.status == 400:
            query = {"list-type": "2", "max-keys": "1"}
            await self._ask("GET", "", query=query, operation="ping", limit=MAX_DOCUMENT_BYTES)
        if head.status == 404:
            store = self._pool.store
            raise NoSuchBucketError(store, "the bucket does not exist there; create it, or correct its name")
        self._is_known = True

    async def _get_first_byte(self, name: str, operation: str) -> ResponseHead:
        allowed = frozenset({200, 206, 404, 416})
        head, _ = await self._ask("GET", name, headers={"range": "bytes=0-0"}, operation=operation, allowed=allowed)
        return head

    async def head_of(self, name: str) -> ResponseHead | None:
        """Returns what the store says of an object; None where there is none of this name.

        Raises:
            AccessDeniedError: access to it is denied.
        """
        head, _ = await self._ask("HEAD", name, operation="look-up", allowed=frozenset({200, 400, 403, 404}))
        if head.status in {400, 403}:
            head = await self._get_first_byte(name, "look-up")  # whose answer says why
        if head.status == 404:
            await self.check()
            return None
        return head

    async def part_of(self, name: str, start: int, end: int, etag: str | None) -> bytes | None:
        """Returns the bytes from `start` to `end` (not included) of an object; None where it was replaced or has gone.

        `etag`: of the object that is meant; None: the store sends none.
        """
        headers = {"range": f"bytes={start}-{end - 1}"} | ({} if etag is None else {"if-match": etag})
        head, body = await self._ask(
            "GET",
            name,
            headers=headers,
            operation="look-up",
            allowed=frozenset({200, 206, 404, 412, 416}),
            limit=max(end - start, MAX_ERROR_BYTES),
        )
        return body if head.status in {200, 206} and len(body) == end - start else None

    async def page(self, prefix: str, token: str | None) -> Page:
        """Returns a part of the listing of the names that start with `prefix`. `token` None: the first part."""
        query = {"list-type": "2", "encoding-type": "url", "max-keys": "1000", "prefix": prefix}
        if token is not None:
            query["continuation-token"] = token
        return await self._ask_for(
            lambda found: page_of(found, prefix),
            "GET",
            "",
            query=query,
            operation="listing",
            limit=MAX_DOCUMENT_BYTES,
        )

    async def remove(self, name: str) -> None:
        """Removes an object. It need not be there."""
        await self._ask("DELETE", name, operation="removal", allowed=frozenset({200, 204, 404}))

    async def remove_if(self, name: str, etag: str) -> bool:
        """Removes an object if its ETag is this one, on a store that knows such a condition. Returns whether it did."""
        return (await self._remove_if(name, etag)).status in {200, 204}

    async def refuses_to_remove(self, name: str, etag: str) -> bool:
        """Asks to remove an object if its ETag is this one. Returns whether the store says that it is another."""
        return (await self._remove_if(name, etag)).status == 412

    async def _remove_if(self, name: str, etag: str) -> ResponseHead:
        allowed = frozenset({200, 204, 404, 412})
        head, _ = await self._ask("DELETE", name, headers={"if-match": etag}, operation="removal", allowed=allowed)
        return head

    async def put(self, name: str, body: bytes) -> None:
        """Stores a small object of the connector's own."""
        await self._ask("PUT", name, body=body, operation="put")

    async def remove_together(self, names: Sequence[str]) -> dict[str, StoreError | None]:
        """Removes up to a thousand objects with one request. Returns what the answer says of each name.

        None: it is gone. A name of which the answer says nothing is left out.

        Raises:
            StoreError: the request was refused as a whole.
        """
        items = "".join(f"<Object><Key>{escape(name)}</Key></Object>" for name in names)
        # Not a quiet answer, which names the failures alone: an empty document would then confirm every removal.
        body = f'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Quiet>false</Quiet>{items}</Delete>'.encode()
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        headers = {"content-md5": base64.b64encode(digest).decode(), "content-type": "application/xml"}
        _, answer = await self._ask(
            "POST", "", query={"delete": ""}, headers=headers, body=body, operation="removal", limit=MAX_DOCUMENT_BYTES
        )
        # Not asked again where the answer is something else: the caller removes one by one then.
        found = await self._read(deletions, answer, "removal")
        outcomes: dict[str, StoreError | None] = {}
        for name in names:
            if name in found.deleted:
                outcomes[name] = None
            elif name in found.refused:
                outcomes[name] = refusal(self._pool.store, "removal", 200, {}, found.refused[name])
        return outcomes

    # ------------------------------------------------------------------------------------------------- multipart

    async def begin_upload(self, name: str, headers: Mapping[str, str]) -> str:
        """Begins a multipart upload. Returns its id."""
        return await self._ask_for(
            lambda body: text_of(body, "InitiateMultipartUpload", "UploadId"),
            "POST",
            name,
            query={"uploads": ""},
            headers=headers,
            operation="multipart put",
        )

    async def complete_upload(self, name: str, upload: str, parts: Sequence[StoredPart], checksum: str) -> bool:
        """Makes an object of its parts, which are stored. Returns whether the answer says clearly that it is done.

        False: the server answers 200, and something that names no error and no object. The object may be there.
        """
        tag = f"Checksum{checksum.upper()}"
        items = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag>"
            + (f"<{tag}>{part.checksum}</{tag}>" if part.checksum else "")
            + "</Part>"
            for part in parts
        )
        document = f'<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{items}'
        body = f"{document}</CompleteMultipartUpload>".encode()
        headers = {"content-type": "application/xml"}
        _, answer = await self._ask(
            "POST", name, query={"uploadId": upload}, headers=headers, body=body, operation="multipart put"
        )
        try:
            return bool(text_of(answer, "CompleteMultipartUpload", "ETag"))
        except DocumentError:
            return False

    async def abort_upload(self, name: str, upload: str) -> None:
        """Gives up an upload, so that the store frees its parts."""
        await self._ask(
            "DELETE", name, query={"uploadId": upload}, operation="multipart put", allowed=frozenset({200, 204, 404})
        )

    async def ask(self, method: str, name: str, operation: str, **rest: Any) -> tuple[ResponseHead, bytes]:
        """Makes one request for what looks at the bucket. Returns the answer's head and body. `rest` is as for `_ask`.

        An empty `name` stands for the bucket. Raises what the answer refuses, unless its status is `allowed`.
        """
        return await self._ask(method, name, operation=operation, **rest)

    # ---------------------------------------------------------------------------------------------------- inside

    async def _ask(
        self,
        method: str,
        name: str,
        *,
        operation: str,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        allowed: frozenset[int] = frozenset({200}),
        limit: int = MAX_ERROR_BYTES,
        read: Callable[[bytes], object] | None = None,
    ) -> tuple[ResponseHead, bytes]:
        payload = hashlib.sha256(body).hexdigest()
        length = len(body) if method in {"POST", "PUT"} else None
        tries = Tries()
        while True:
            signer = await self._signing.current()
            request = signer.head(method, name, query=query, headers=headers, length=length, payload=payload)
            connection: HTTPConnection | None = None
            try:
                async with self._pool.acquired() as connection:
                    found = await self._exchange(connection, request + body, method, operation, allowed, limit)
                if read is not None:
                    await self._read(read, found[1], operation)
                self._retries.succeeded()
                return found
            except StoreError as error:
                is_stale = connection is not None and connection.was_stale(error.__cause__)
                retry = self._retries.again(tries, error, is_stale=is_stale, seconds_left=seconds_left())
                if retry is None or (retry.renews and not await self._signing.renew(signer)):
                    raise
            await anyio.sleep(retry.pause)

    async def _exchange(
        self,
        connection: HTTPConnection,
        request: bytes,
        method: str,
        operation: str,
        allowed: frozenset[int],
        limit: int,
    ) -> tuple[ResponseHead, bytes]:
        await connection.request(request)
        # A POST is received whole at once. The store then puts parts together, or deletes up to a thousand objects.
        with connection.stream.answering_within(_WORK_SECONDS if method == "POST" else 0.0):
            head = await connection.read_head(method)
            if head.status not in allowed:
                raise await refused(connection, head, operation)
            body = await connection.read_body(head, limit)
        error = refused_late(connection.store, head, body, operation)
        if error is not None and (head.status < 300 or isinstance(error, NoSuchBucketError)):
            raise error
        return head, body

    async def _read(self, read: Callable[[bytes], T], document: bytes, operation: str) -> T:
        try:
            if len(document) > _LARGE_BYTES:
                return await in_thread(partial(read, document))
            return read(document)
        except DocumentError as error:
            raise StoreProtocolError(self._pool.store, f"{operation}: the server answers {error}") from None

    async def _ask_for(self, read: Callable[[bytes], T], method: str, name: str, **rest: Any) -> T:
        """Makes a request whose answer is a document, and returns what `read` makes of it.

        A document that is something else, such as a proxy's page, is a failed attempt. `rest` is as for `_ask`.
        """
        found: list[T] = []
        await self._ask(method, name, read=lambda document: found.append(read(document)), **rest)
        return found[-1]
