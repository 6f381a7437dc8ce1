"""`ObjectTrials`: each request that chunks need, tried on objects of its own. Each is a right that the bucket gives."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import Finding, Verdict

from ..bucket import Bucket
from ..failures import AccessDeniedError
from ..object_names import ObjectNames

_BODY: Final = b"lmcache-connect check: " + bytes(range(256)) * 4
_REFUSED: Final = frozenset({400, 403, 404, 405, 412, 501})


@dataclass
class _OnePart:
    """The only part of the trial's upload, as `StoredPart`."""

    etag: str
    number: int = 1
    checksum: str = ""


Trial = Callable[[], Awaitable[Finding]]


class ObjectTrials:
    """Writes, reads and removes objects whose names no key has. The last trial removes them."""

    def __init__(self, bucket: Bucket, names: ObjectNames, token: str, timeout: float) -> None:
        """`timeout`: seconds for each trial."""
        self._bucket: Final = bucket
        self._timeout: Final = timeout
        self._name: Final = names.internal(token)
        self._other: Final = names.internal(f"{token}-parts")
        self._absent: Final = names.internal(f"{token}-absent")
        self._folder: Final = names.internal("")

    async def findings(self) -> AsyncIterator[Finding]:
        """Yields a finding for each trial. The trials after one that cannot write are left out."""
        trials: tuple[tuple[str, Trial], ...] = (
            ("GetObject", self._read),
            ("ranges", self._range),
            ("missing objects", self._missing),
            ("checksums", self._checksum),
            ("ListObjectsV2", self._list),
            ("multipart", self._multipart),
            ("AbortMultipartUpload", self._abort),
            ("DeleteObject If-Match", self._remove_if),
            ("DeleteObjects", self._remove_many),
            ("DeleteObject", self._remove),
        )
        writes = await self._try("PutObject", self._write)
        yield writes
        if writes.verdict is Verdict.FAILS:
            return
        try:
            for subject, trial in trials:
                yield await self._try(subject, trial)
        finally:
            await self._clean_up()

    async def _try(self, subject: str, trial: Trial) -> Finding:
        try:
            async with asyncio.timeout(self._timeout):
                return await trial()
        except AccessDeniedError as error:
            return Finding(subject, Verdict.FAILS, error.message, f"allow {_RIGHTS[subject]}")
        except StoreError as error:
            return Finding(subject, Verdict.FAILS, error.message, _ADVICE.get(subject, ""))
        except TimeoutError:
            return Finding(subject, Verdict.FAILS, f"no answer within {self._timeout:g} s")

    async def _clean_up(self) -> None:
        for name in (self._name, self._other):
            try:
                async with asyncio.timeout(self._timeout):
                    await self._bucket.remove(name)
            except (StoreError, TimeoutError):
                continue  # the trial `remove` has told why

    # -------------------------------------------------------------------------------------------------- the trials

    async def _write(self) -> Finding:
        await self._bucket.put(self._name, _BODY)
        return Finding("PutObject", Verdict.GOOD, f"{len(_BODY)} bytes")

    async def _read(self) -> Finding:
        _, body = await self._bucket.ask("GET", self._name, "get")
        await self._bucket.ask("HEAD", self._name, "look-up")
        if body != _BODY:
            found = f"{len(_BODY)} bytes were written, and {len(body)} others read"
            return Finding("GetObject", Verdict.FAILS, found, "use another store: this one returns other data")
        return Finding("GetObject", Verdict.GOOD, "what was written; HeadObject too")

    async def _range(self) -> Finding:
        headers = {"range": "bytes=100-199"}
        head, body = await self._bucket.ask(
            "GET", self._name, "get", headers=headers, allowed=frozenset({200, 206, *_REFUSED})
        )
        if head.status in {200, 206} and body == _BODY[100:200]:  # rclone says 200
            return Finding("ranges", Verdict.GOOD, "bytes 100-199 of an object")
        found = f"the store answers {head.status} with {len(body)} bytes to a request for 100"
        return Finding("ranges", Verdict.FAILS, found, "?range_size=0 gets every chunk whole")

    async def _missing(self) -> Finding:
        head, _ = await self._bucket.ask("HEAD", self._absent, "look-up", allowed=frozenset({200, 403, 404}))
        if head.status == 404:
            return Finding("missing objects", Verdict.GOOD, "404")
        found = f"the store answers {head.status} for an object that is not there"
        return Finding("missing objects", Verdict.NOTE, found, "allow s3:ListBucket: a look-up then costs one request")

    async def _checksum(self) -> Finding:
        right = base64.b64encode(zlib.crc32(_BODY).to_bytes(4, "big")).decode()
        wrong = base64.b64encode((zlib.crc32(_BODY) ^ 1).to_bytes(4, "big")).decode()
        allowed = frozenset({200, *_REFUSED})
        first, _ = await self._bucket.ask(
            "PUT", self._name, "put", body=_BODY, headers={"x-amz-checksum-crc32": right}, allowed=allowed
        )
        second, _ = await self._bucket.ask(
            "PUT", self._name, "put", body=_BODY, headers={"x-amz-checksum-crc32": wrong}, allowed=allowed
        )
        if first.status == 200 and second.status == 400:
            return Finding("checksums", Verdict.GOOD, "the store verifies x-amz-checksum-crc32")
        told = "does not verify" if first.status == second.status == 200 else "does not take"
        found = f"the store {told} x-amz-checksum-crc32"
        return Finding("checksums", Verdict.NOTE, found, "leave ?object_checksum= out: records have their own")

    async def _list(self) -> Finding:
        page = await self._bucket.page(self._folder, None)
        names, token = {*page.names}, page.token
        while token is not None and self._name not in names:
            page = await self._bucket.page(self._folder, token)
            names, token = {*page.names}, page.token
        if self._name in names:
            return Finding("ListObjectsV2", Verdict.GOOD, "tells of what was written")
        found = "the object that was written is not in it"
        return Finding(
            "ListObjectsV2", Verdict.HURTS, found, "list, clear and ls tell of new chunks later than they are there"
        )

    async def _multipart(self) -> Finding:
        upload = await self._bucket.begin_upload(self._other, {})
        try:
            query = {"partNumber": "1", "uploadId": upload}
            head, _ = await self._bucket.ask("PUT", self._other, "multipart put", query=query, body=_BODY)
            await self._bucket.complete_upload(self._other, upload, [_OnePart(head.headers.get("etag", ""))], "none")
        except BaseException:
            await self._bucket.abort_upload(self._other, upload)
            raise
        _, body = await self._bucket.ask("GET", self._other, "get")
        if body != _BODY:
            found = "the object is not what its parts were"
            return Finding("multipart", Verdict.FAILS, found, "raise ?multipart_threshold= above the largest chunk")
        return Finding("multipart", Verdict.GOOD, "an upload of one part, completed and read back")

    async def _abort(self) -> Finding:
        upload = await self._bucket.begin_upload(self._absent, {})
        await self._bucket.abort_upload(self._absent, upload)
        return Finding("AbortMultipartUpload", Verdict.GOOD, "an upload was given up")

    async def _remove_if(self) -> Finding:
        etag = f'"{hashlib.md5(b"another", usedforsecurity=False).hexdigest()}"'
        headers = {"if-match": etag}
        head, _ = await self._bucket.ask(
            "DELETE", self._name, "removal", headers=headers, allowed=frozenset({200, 204, *_REFUSED})
        )
        if head.status == 412:
            return Finding("DeleteObject If-Match", Verdict.GOOD, "another ETag is refused")
        told = "ignores" if head.status < 300 else "refuses"
        found = f"the store {told} If-Match: damaged chunks stay, as misses, until they are written again"
        if told == "ignores":
            await self._bucket.put(self._name, _BODY)
        return Finding("DeleteObject If-Match", Verdict.NOTE, found)

    async def _remove_many(self) -> Finding:
        try:
            outcomes = await self._bucket.remove_together([self._other])
            is_gone = outcomes.get(self._other, False) is None
            refused = outcomes.get(self._other)
        except AccessDeniedError:
            raise
        except StoreError as error:
            is_gone, refused = False, error
        if is_gone:
            return Finding("DeleteObjects", Verdict.GOOD, "many with one request")
        found = "the answer confirms nothing" if refused is None else refused.message
        return Finding("DeleteObjects", Verdict.NOTE, found, "clear and rm remove one by one, which takes longer")

    async def _remove(self) -> Finding:
        await self._bucket.remove(self._name)
        head, _ = await self._bucket.ask("HEAD", self._name, "look-up", allowed=frozenset({200, 403, 404}))
        if head.status == 200:
            found = "the object is still there"
            return Finding("DeleteObject", Verdict.FAILS, found, "see whether the bucket has an object lock")
        return Finding("DeleteObject", Verdict.GOOD, "gone")


_RIGHTS: Final = {
    "PutObject": "s3:PutObject on the prefix",
    "GetObject": "s3:GetObject on the prefix",
    "ranges": "s3:GetObject on the prefix",
    "missing objects": "s3:ListBucket on the bucket",
    "checksums": "s3:PutObject on the prefix",
    "ListObjectsV2": "s3:ListBucket on the bucket: list, clear, ls, du and cp need it",
    "multipart": "s3:PutObject on the prefix",
    "AbortMultipartUpload": "s3:AbortMultipartUpload on the prefix: parts of uploads that broke off stay, and cost",
    "DeleteObject If-Match": "s3:DeleteObject on the prefix",
    "DeleteObjects": "s3:DeleteObject on the prefix",
    "DeleteObject": "s3:DeleteObject on the prefix",
}

_ADVICE: Final = {
    "multipart": "raise ?multipart_threshold= above the largest chunk",
    "ranges": "?range_size=0 gets every chunk whole",
}
