"""`S3Connector`: chunks between the arena and the objects of a bucket, without a copy in between."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Final

import anyio

from lmcache_connect import (
    CacheMetadata,
    ChunkMemory,
    ConnectorClosedError,
    Key,
    MemoryObj,
    RemoteConnector,
    StoreError,
    StoreUnavailableError,
    key_string,
)
from lmcache_connect.contract import ChunkSize, Flags, Slots, gather
from lmcache_connect.errors import CertificateError, InvalidArgumentError, ValueTooLargeError
from lmcache_connect.keys import key_strings
from lmcache_connect.streaming import PlaceInLine, RoomLine
from lmcache_connect.transport import (
    ConnectionPool,
    Couriers,
    StreamClosedError,
    TLSSettings,
    in_thread,
    open_tcp_stream,
)

from .bucket import MAX_DELETED, Bucket
from .fetching import Fetching
from .http_connection import HTTPConnection, parser_protocol
from .location import Location
from .object_names import ObjectNames
from .options import MAX_PARTS, S3Options
from .retries import Retries
from .signing import CallSigner, Signing
from .storing import Record, Storing
from .transfers import Pool, lost

LARGE_BYTES: Final = 1 << 20
"""A call that moves less stays on the event loop: it is over before a thread would have begun."""

_NAMES_PIECE: Final = 250
"""Keys that become names before the event loop gets its turn."""

_TIDY_SECONDS: Final = 2.0
"""How long giving up a multipart upload may take."""

_REMEMBERED: Final = 65_536
"""Keys of which it is remembered that they were found."""

Names = list[str]


class S3Connector(RemoteConnector):
    """One object per chunk in one bucket. Made by `S3ConnectorAdapter`; lives on one event loop; connects on first use.

    Calls that move a MiB or more have threads move their bytes, each over one connection.
    """

    def __init__(
        self,
        store: str,
        location: Location,
        options: S3Options,
        *,
        local_cpu_backend: ChunkMemory,
        allocate_timeout: float,
        threads_from: float,
        config: Any = None,
        metadata: CacheMetadata | None = None,
    ) -> None:
        super().__init__(config, metadata)
        self._store = store
        self._options = options
        self._names = ObjectNames(location.prefix)
        self._tls = TLSSettings(ca_file=options.ca_file, verify=options.verify)
        self._transfers = self._pool(options.pool_size)
        # Look-ups must not wait behind megabytes, and the get that waits for room keeps no connection from others.
        self._lookups = self._pool(options.pool_size)
        self._when_first = self._pool(options.pool_size)
        self._line = RoomLine(local_cpu_backend, allocate_timeout)
        self._couriers = Couriers()
        self._threads_from = threads_from
        self._threads = options.threads if options.threads is not None else 1 + (os.cpu_count() or 1)
        self._chunk_size = ChunkSize(metadata)
        self._retries = Retries(options.attempts)
        self._signing = Signing(store, location, options, self._lookups)
        self._bucket = Bucket(self._lookups, self._signing, self._retries)
        self._headers = _object_headers(options)
        self._seen: dict[str, float] = {}
        self._protocol: Any = None

    def _pool(self, size: int) -> Pool:
        return ConnectionPool(size, self._connect, self._store, lost)

    async def _connect(self) -> HTTPConnection:
        location = self._signing.location
        name = self._tls.server_name = location.server_name
        if self._protocol is None:
            self._protocol = parser_protocol(asyncio.get_running_loop())
        try:
            with anyio.fail_after(self._options.connect_timeout):
                stream = await open_tcp_stream(location.host, location.port, self._tls if location.is_tls else None)
        except TimeoutError:
            seconds = self._options.connect_timeout
            raise StoreUnavailableError(self._store, f"connecting did not finish within {seconds} s") from None
        except ssl.SSLCertVerificationError as error:
            authorities = self._options.ca_file or "the system's certificate authorities"
            raise CertificateError(
                self._store,
                f"the certificate of {name} does not verify against {authorities}: {error.verify_message}",
            ) from error
        except StreamClosedError as error:
            raise StoreUnavailableError(self._store, str(error)) from error
        return HTTPConnection(stream, self._store, self._protocol)

    # ------------------------------------------------------------------------------------------------- look-ups

    async def ping(self) -> int:
        """0 when the bucket is there."""
        await self._bucket.ping()
        return 0

    async def exists(self, key: Key) -> bool:
        """Whether there is an object for the key."""
        return (await self.batched_exists([key]))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """One request for each key, over all connections for look-ups side by side."""
        names = await self._object_names(keys)
        found = [self._is_remembered(name) for name in names]
        calls = [partial(self._look_up, name, found, at) for at, name in enumerate(names)]
        await gather(calls, self._options.pool_size)
        return found

    async def _look_up(self, name: str, found: Flags, at: int) -> None:
        if not found[at] and await self._bucket.exists(name):
            found[at] = True
            self._remember(name)

    def _is_remembered(self, name: str) -> bool:
        return bool(self._seen) and self._seen.get(name, 0.0) > time.monotonic()

    def _remember(self, name: str) -> None:
        if self._options.exists_cache:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen[name] = time.monotonic() + self._options.exists_cache

    async def remove(self, key: Key) -> bool:
        """Removes the object. Two requests, since a store does not say whether there was one."""
        name = self._name(key)
        self._seen.pop(name, None)
        if not await self._bucket.exists(name):
            return False
        await self._bucket.remove(name)
        return True

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes a thousand objects with each request; for each key, whether it is gone."""
        names = await self._object_names(keys)
        gone: Flags = []
        for start in range(0, len(names), MAX_DELETED):
            piece = names[start : start + MAX_DELETED]
            for name in piece:
                self._seen.pop(name, None)
            failed = await self._bucket.remove_all(piece)
            gone += [name not in failed for name in piece]
        return gone

    async def list(self) -> list[str]:
        """Every key under the prefix."""
        return [key async for key in self.scan()]

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Keys that start with `prefix`, a page of a thousand at a time."""
        token: str | None = None
        listed = self._names.listed_prefix(prefix)
        while True:
            page = await self._bucket.page(listed, token)
            for name in page.names:
                key = self._names.key(name)
                if key is not None and key.startswith(prefix):
                    yield key
            token = page.token
            if token is None:
                return

    # -------------------------------------------------------------------------------------------------- chunks

    async def get(self, key: Key) -> MemoryObj | None:
        """The chunk, received straight into the arena; None where there is none.

        Raises:
            CorruptRecordError: the object does not verify.
        """
        fetching = await self._fetch([key])
        if 0 in fetching.corrupt:
            raise fetching.corrupt[0]
        return fetching.chunks[0]

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key, over all connections side by side."""
        fetching = await self._fetch(keys)
        try:
            for slot, error in fetching.corrupt.items():
                await self.discard_corrupt(keys[slot], error)
        except BaseException:
            fetching.release()
            raise
        return fetching.chunks

    async def _fetch(self, keys: Sequence[Key]) -> Fetching:
        names = await self._object_names(keys)
        pairs = list(zip(key_strings(keys), names, strict=True))
        nbytes = len(keys) * self._chunk_size.expected
        signer = CallSigner(self._signing, await self._signing.current())

        async def attempt(place: PlaceInLine) -> Fetching:
            # Who waits for room in the arena waits on the loop.
            is_large = nbytes >= self._threads_from and not place.is_first
            fetching = Fetching(
                signer,
                pairs,
                place.room(),
                self._options,
                **self._how(self._when_first if place.is_first else self._transfers, signer, is_large),
            )
            try:
                await fetching.run()
            except BaseException:
                fetching.release()
                raise
            return fetching

        fetching = await self._line.serve(attempt)
        for chunk in fetching.chunks:
            if chunk is not None:
                self._chunk_size.observe(chunk.get_size())
                break
        return fetching

    def _how(self, pool: Pool, signer: CallSigner, is_large: bool) -> dict[str, Any]:
        return {
            "pool": pool,
            "workers": min(self._threads, self._options.pool_size) if is_large else self._options.pool_size,
            "retries": self._retries,
            "couriers": self._couriers if is_large else None,
            "renew": signer.renew,
        }

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Sends the chunk straight from its memory."""
        await self.batched_put([key], [memory_obj])

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """Sends every chunk, over all connections side by side. When it fails, some are stored, each of them whole."""
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        names = await self._object_names(keys)
        records: dict[str, Record] = {}
        for key, name, obj in zip(keys, names, memory_objs, strict=True):
            record = Record(key_string(key), obj, self._options.checksum)
            if record.length > self._options.max_value_bytes:
                raise ValueTooLargeError(self._store, record.length, self._options.max_value_bytes)
            records[name] = record
        whole = {name: record for name, record in records.items() if record.length <= self._options.multipart_threshold}
        if whole:
            storing = await self._storing(sum(record.length for record in whole.values()))
            storing.store_all(list(whole), list(whole.values()))
            await storing.prepare()
            await storing.run()
        for name, record in records.items():
            if name not in whole:
                await self._put_in_parts(name, record)
        for name in names:
            self._remember(name)

    async def _storing(self, nbytes: int) -> Storing:
        signer = CallSigner(self._signing, await self._signing.current())
        return Storing(
            signer,
            self._headers,
            signs_payload=self._signs_payload(),
            object_checksum=self._options.object_checksum,
            **self._how(self._transfers, signer, nbytes >= self._threads_from),
        )

    def _signs_payload(self) -> bool:
        match self._options.sign_payload:
            case "auto":
                return not (
                    self._signing.location.is_tls or self._signing.location.is_loopback or self._options.anonymous
                )
            case choice:
                return choice == "always" and not self._options.anonymous

    async def _put_in_parts(self, name: str, record: Record) -> None:
        size = max(self._options.part_size, -(-record.length // MAX_PARTS))
        await in_thread(record.hash_payload)
        headers = dict(self._headers)
        checksum = self._options.object_checksum
        if checksum != "none":
            headers["x-amz-checksum-algorithm"] = checksum.upper()
        upload = await self._bucket.begin_upload(name, headers)
        try:
            storing = await self._storing(record.length)
            parts = storing.store_parts(name, record, upload, size)
            await storing.prepare()
            await storing.run()
            await self._bucket.complete_upload(name, upload, parts, checksum)
        except BaseException:
            with anyio.move_on_after(_TIDY_SECONDS, shield=True):
                try:
                    await self._bucket.abort_upload(name, upload)
                except (StoreError, ConnectorClosedError):
                    pass  # a lifecycle rule frees what is left
            raise

    async def close(self) -> None:
        """Closes every connection."""
        self._couriers.close()
        self._signing.close()
        for pool in (self._transfers, self._lookups, self._when_first):
            pool.close()

    # -------------------------------------------------------------------------------------------------- inside

    def _name(self, key: Key) -> str:
        return self._names.name(key_string(key))

    async def _object_names(self, keys: Sequence[Key]) -> Names:
        names: Names = []
        for start in range(0, len(keys), _NAMES_PIECE):
            if start:
                await asyncio.sleep(0)
            names += [self._names.name(key) for key in key_strings(keys[start : start + _NAMES_PIECE])]
        return names


def _object_headers(options: S3Options) -> dict[str, str]:
    chosen = {
        "x-amz-storage-class": options.storage_class,
        "x-amz-server-side-encryption": options.sse,
        "x-amz-server-side-encryption-aws-kms-key-id": options.sse_kms_key_id,
        "x-amz-tagging": options.tags,
    }
    headers = {name: value for name, value in chosen.items() if value is not None}
    return {"content-type": "application/octet-stream", **headers}
