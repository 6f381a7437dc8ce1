"""`S3Connector`: the connector of buckets, one object per chunk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

from lmcache_connect import (
    ConnectorContext,
    CorruptRecordError,
    Key,
    key_string,
)
from lmcache_connect.contract import FactSlots, Finding, Flags, gather, leave_out, note_progress
from lmcache_connect.errors import CertificateError, ValueTooLargeError
from lmcache_connect.streaming import Arrivals, ChunkBytes, StreamingConnector
from lmcache_connect.transport import (
    StreamClosedError,
    TLSSettings,
    TLSSettingsError,
    lost_connection,
    open_tcp_stream,
)

from .bucket import Bucket
from .damaged_objects import DamagedObjects
from .denials import Denials
from .equipment import Equipment
from .failures import AccessDeniedError
from .fetching import Fetching
from .found_names import FoundNames
from .http_connection import HTTPConnection, parser_protocol
from .listing import Listing
from .location import Location
from .multipart_upload import MultipartUpload
from .object_facts import ObjectFacts
from .object_names import ObjectNames
from .object_removal import ObjectRemoval
from .options import MAX_PARTS, S3Options
from .request_call import RequestServer
from .request_crew import RequestCrew
from .request_lane import RequestLane
from .retries import Retries
from .signing import CallSigner, Signing
from .stored_record import StoredRecord
from .storing import Storing
from .tidying import Tidying

_TIDY_SECONDS: Final = 0.5
"""How long closing waits for uploads that are being given up, in seconds."""

Names = list[str]


class S3Connector(StreamingConnector[HTTPConnection]):
    """One object per chunk in one bucket. Made by `S3ConnectorAdapter`. Asks for credentials on first use."""

    repeats_itself = True  # `attempts`

    def __init__(self, context: ConnectorContext, options: S3Options, location: Location) -> None:
        super().__init__(
            context,
            pool_size=options.pool_size,
            lookup_pool_size=options.pool_size,
            connect_timeout=options.connect_timeout,
            io=options.io,
        )
        self._options = options
        self._names = ObjectNames(location.prefix)
        self._tls = TLSSettings(ca_file=options.ca_file, verify=options.verify)
        self._threads = options.threads if options.threads is not None else 1 + (os.cpu_count() or 1)
        self._retries = Retries(options.attempts)
        self._tidying = Tidying()
        self._signing = Signing(self._store, location, options, self._lookup_pool, context.lane)
        self._bucket = Bucket(self._lookup_pool, self._signing, self._retries, self._names.internal("ping"))
        self._denials = Denials(self._bucket, self._store)
        self._removal = ObjectRemoval(self._bucket, options.pool_size)
        self._damaged = DamagedObjects(self._bucket, self._signing, self._names, self._connect, options.max_value_bytes)
        self._facts = ObjectFacts(self._bucket, self._store)
        self._headers = _object_headers(options)
        self._found = FoundNames(options.exists_cache)
        self._protocol: Any = None
        threads = min(self._threads, options.pool_size)
        self._lane = RequestLane(
            self._chunk_pool,
            self._couriers,
            threads,
            most=threads if options.threads is not None else max(threads, options.pool_size - 1),
            yields=threads == options.pool_size,
        )

    async def dial(self) -> HTTPConnection:
        location = self._signing.location
        self._tls.server_name = location.server_name
        if self._protocol is None:
            self._protocol = parser_protocol(asyncio.get_running_loop())
        try:
            tls = self._tls if location.is_tls else None
            stream = await open_tcp_stream(location.host, location.port, tls, self._stall_timeout)
        except TLSSettingsError as error:
            raise CertificateError(self._store, str(error)) from error
        except StreamClosedError as error:
            raise lost_connection(self._store, error) from error
        return HTTPConnection(stream, self._store, self._protocol)

    def names_of(self, keys: Sequence[str]) -> Names:
        return [self._names.name(key) for key in keys]

    def _equipment(self, nbytes: int, *, may_wait: bool = False) -> Equipment:
        """Returns what a call that moves `nbytes` bytes works with."""
        # One request is outstanding on each connection, so small calls profit from many as well.
        size = self._options.pool_size
        if may_wait:
            return Equipment(self._waiting_pool, size)
        if not self._moves_in_thread(nbytes):
            return Equipment(self._chunk_pool, size)
        return Equipment(self._chunk_pool, min(self._threads, size), self._couriers)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """Returns 0 if the bucket is there.

        Raises:
            NoSuchBucketError: it is not. Another `StoreError`: it cannot be asked for.
        """
        await self._bucket.ping()
        return 0

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for each key whether there is an object. Makes one request per key, several of them side by side."""
        _, names = await self._named(keys)
        found = [name in self._found for name in names]
        calls = [partial(self._look_up, name, found, at) for at, name in enumerate(names)]
        await gather(calls, self._options.pool_size)
        return found

    async def _look_up(self, name: str, found: Flags, at: int) -> None:
        if not found[at] and await self._denials.exists(name):
            found[at] = True
            self._found.add(name)

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """What the store says of each key's object. One request per key; with `records`, two more.

        S3 forgets objects by rules of the bucket alone. Where it tells the day for an object, that is its time to live.
        """
        texts, names = await self._named(keys)
        found: FactSlots = [None] * len(names)

        async def look(at: int) -> None:
            try:
                found[at] = await self._facts.of(texts[at], names[at], records=records)
            except AccessDeniedError:
                if await self._denials.exists(names[at]):
                    raise

        await gather([partial(look, at) for at in range(len(names))], self._options.pool_size)
        return found

    async def remove(self, key: Key) -> bool:
        """Removes the object. Returns whether there was one, which takes a request of its own."""
        [name] = self.names_of([key_string(key)])
        self._found.discard(name)
        is_there = await self._denials.exists(name)
        if is_there or self._denials.stand_for_missing:  # who may not read it may be allowed to remove it
            await self._bucket.remove(name)
        return is_there

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """Removes the object if it is the one that a get has seen, and a second look finds it damaged as well.

        Raises:
            UnsupportedOperationError: the store is not known to remove an object on the condition of its ETag.
        """
        text = key_string(key)
        [name] = self.names_of([text])
        is_removed = await self._damaged.remove(name, text)
        if is_removed:
            self._found.discard(name)
        return is_removed

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes many objects with each request, where the store can do that.

        Returns for each key whether the store has confirmed that its object is gone.
        """
        _, names = await self._named(keys)
        for name in names:
            self._found.discard(name)
        return await self._removal.remove_all(names)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`, a page of a thousand at a time. Other names are left out."""
        listing = Listing(self._bucket, self._store, self._names.listed_prefix(prefix))
        while (names := await listing.next_page()) is not None:
            if names:
                note_progress()  # also where none of them is ours
            for name in names:
                key = self._names.key(name)
                if key is not None and key.startswith(prefix):
                    yield key
                elif not self._names.is_internal(name):
                    leave_out()

    # -------------------------------------------------------------------------------------------------- chunks

    async def receive(
        self,
        keys: Sequence[str],
        names: Sequence[str],
        arrivals: Arrivals,
        *,
        may_wait: bool = False,
        nbytes: int | None = None,
    ) -> None:
        if nbytes is None:
            nbytes = self._nbytes_of(len(names))
        equipment = self._equipment(nbytes, may_wait=may_wait)
        signer = CallSigner(self._signing, await self._signing.current())
        fetching = Fetching(self._server(equipment), self._retries, signer, self._options, keys, names, arrivals)
        await fetching.run()
        for name, denial in fetching.denied.items():
            if not await self._denials.is_of_missing(name):
                raise denial
        for slot in arrivals.corrupt:
            self._damaged.seen(names[slot], fetching.damaged.get(names[slot]))

    def _server(self, equipment: Equipment) -> RequestServer:
        """Returns what makes the requests of a call."""
        if equipment.couriers is not None:
            return self._lane
        return RequestCrew(equipment.pool, equipment.members)

    async def send(self, keys: Sequence[str], names: Sequence[str], objs: Sequence[ChunkBytes]) -> None:
        records: dict[str, StoredRecord] = {}
        for key, name, obj in zip(keys, names, objs, strict=True):
            record = StoredRecord(key, obj, self._options.checksum)
            if record.length > self._options.max_value_bytes:
                raise ValueTooLargeError(self._store, record.length, self._options.max_value_bytes)
            records[name] = record
        whole = {name: record for name, record in records.items() if record.length <= self._options.multipart_threshold}
        if whole:
            storing = await self._storing(sum(record.length for record in whole.values()))
            storing.store_all(list(whole), list(whole.values()))
            await storing.run()
        for name, record in records.items():
            if name not in whole:
                await self._put_in_parts(name, record)
        for name in names:
            self._found.add(name)

    async def _storing(self, nbytes: int) -> Storing:
        return Storing(
            self._server(self._equipment(nbytes)),
            self._retries,
            CallSigner(self._signing, await self._signing.current()),
            self._headers,
            signs_payload=self._signs_payload(),
            object_checksum=self._options.object_checksum,
        )

    def _signs_payload(self) -> bool:
        match self._options.sign_payload:
            case "auto":
                location = self._signing.location
                return not (location.is_tls or location.is_loopback or self._options.anonymous)
            case choice:
                return choice == "always" and not self._options.anonymous

    async def _put_in_parts(self, name: str, record: StoredRecord) -> None:
        size = max(self._options.part_size, -(-record.length // MAX_PARTS))
        upload = MultipartUpload(self._bucket, self._retries, self._tidying, self._storing, self._store)
        await upload.put(name, record, size, self._headers, self._options.object_checksum)

    async def diagnose(self, timeout: float) -> AsyncIterator[Finding]:
        """See `Diagnosable`."""
        from .diagnosis.bucket_diagnosis import BucketDiagnosis

        diagnosis = BucketDiagnosis(self._bucket, self._signing, self._lookup_pool, self._names, timeout)
        async for finding in diagnosis.findings():
            yield finding

    async def close(self) -> None:
        """Closes every connection, when uploads that were cancelled have been given up. Idempotent."""
        await self._tidying.finish(_TIDY_SECONDS)
        self._signing.close()
        await super().close()
        await self._lane.close()


def _object_headers(options: S3Options) -> dict[str, str]:
    chosen = {
        "x-amz-storage-class": options.storage_class,
        "x-amz-server-side-encryption": options.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": options.sse_kms_key_id,
        "x-amz-tagging": options.tags,
    }
    headers = {name: value for name, value in chosen.items() if value is not None}
    return {"content-type": "application/octet-stream", **headers}
