"""`ManagedConnector`: what the application holds. It adds to each connector what all of them need."""

from __future__ import annotations

import logging
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ..checkpoint import checkpointed
from ..contract import (
    REMOVAL_TIMEOUT,
    BreakerState,
    CallerMemory,
    ChunkSize,
    ConnectorContext,
    Descriptions,
    Documents,
    FactSlots,
    Flags,
    Hits,
    OwnThreadCalls,
    RemoteConnector,
    RemovalPolicy,
    ServerFacts,
    ServerState,
    Slots,
    Staging,
    end_scan,
    hit_prefix,
    prefix_length,
)
from ..errors import AllocationTimeoutError, ArenaExhaustedError, ChunkMissingError, InvalidArgumentError
from ..foreign import ForeignConnector, OutsideConnector
from ..keys import Key, check_batch, key_string
from ..memory import HotCache, MemoryObj, chunk_of, release_all
from ..metadata import ChunkMetadata
from ..observability import Condition, OperationStatistics, StoreMetrics, event
from .arguments import caller_memory, checked_keys, checked_ttls, listed_objects, size_of_borrowed
from .guarded_calls import GuardedCalls
from .holds import Holds
from .lifetime import Lifetime, close_soon
from .listing import Listing
from .load import load_of_keys
from .operation_runner import OperationRunner, note_corrupt
from .operations import (
    ANNOUNCE,
    ANNOUNCED,
    BATCHED_GET,
    BATCHED_GET_INTO,
    CHECK,
    DESCRIBE,
    EXISTS,
    EXPIRE,
    GET,
    GET_INTO,
    LIST,
    PING,
    PUT,
    PUT_FROM,
    REMOVE,
    REMOVE_OUTDATED,
    SCAN,
    WITHDRAW,
    Operation,
    Transferred,
)
from .own_thread import OwnThread
from .progress import OnProgress, Tally
from .recall import Recall
from .seen_names import SeenNames
from .sync_connector import SyncConnector
from .tensors import array_of, tensor_of_async
from .windowed_gets import KeyT, WindowedGets
from .windowed_puts import Pair, WindowedPuts

if TYPE_CHECKING:
    import numpy
    import torch

Names = list[str]  # inside the class, `list` is a method

_WITHOUT_ROOM: Final = ("no_room", ArenaExhaustedError.__name__, AllocationTimeoutError.__name__)
"""The reasons by which chunks are counted that found no room, with either setting of `errors`."""

_waits_once: Final = checkpointed(release_all)


class ManagedConnector(RemoteConnector):
    """A connector with a deadline, retries, a circuit breaker, a byte budget and counters around each operation.

    May be awaited from any event loop, and through `sync` from threads without one. Every operation ends by its
    deadline, and `close()` by its grace period. `wrapped` is the author's object.
    """

    def __init__(self, wrapped: RemoteConnector, context: ConnectorContext, name: str | None = None) -> None:
        super().__init__(context.config, context.metadata)
        self._wrapped = wrapped
        self._context = context
        self._settings = context.settings
        self._owner = context.owner
        self._store = context.remote_url.label()
        # The author's class, not what holds it to the rules.
        self._class_name = type(_author_of(wrapped)).__name__
        self.name: Final = name or f"{context.remote_url.scheme}-1"
        """Its name for operators: the scheme and a number, unique within its manager."""
        self._runner = OperationRunner(
            self._store,
            self._class_name,
            self._settings,
            context.owner,
            self.name,
            repeats=not wrapped.repeats_itself,
            judges=not wrapped.judges_itself,
            lease=context.local_cpu_backend.lease,
        )
        self._lifetime = Lifetime(self._runner, self._store, self._class_name)
        self._chunk_size = ChunkSize(context.metadata)
        self._guarded = GuardedCalls(self._runner, wrapped, self._store, self._class_name, self._chunk_size)
        self._listing = Listing(self._store)
        timeout = min(
            REMOVAL_TIMEOUT, self._settings.operation_timeout / 4
        )  # so that a get does not miss its deadline by it
        self._removal_policy = RemovalPolicy(
            self._store, self._runner.metrics.removals, timeout=timeout, is_on=self._settings.remove_damaged
        )
        self._attach_inside(wrapped, context)
        self._recall: Recall | None
        self.sync = SyncConnector(
            self,
            context.owner,
            self._settings.sync_timeout,
            lambda: self._context.local_cpu_backend,
            self._windows,
        )
        """The same operations for threads without an event loop."""
        self._use_inside()

    @property
    def wrapped(self) -> RemoteConnector:
        """The connector that the adapter made."""
        return self._wrapped.wrapped if isinstance(self._wrapped, OutsideConnector) else self._wrapped

    @property
    def inside(self) -> RemoteConnector:
        """What calls go to: `wrapped`, or what stands around it where other people have written that."""
        return self._wrapped

    @property
    def context(self) -> ConnectorContext:
        """What the connector was made from."""
        return self._context

    @property
    def class_name(self) -> str:
        """The name of the author's class."""
        return self._class_name

    @property
    def store(self) -> str:
        """The store's address, without credentials and options."""
        return self._store

    @property
    def breaker_state(self) -> BreakerState:
        """The circuit breaker's state. It stays closed where servers have breakers of their own: see `servers`."""
        return self._runner.breaker.state

    def servers(self) -> Sequence[ServerState]:
        """What is known of each server of a store that has several, each with a breaker of its own. From any thread."""
        return self._wrapped.servers()

    async def server_facts(self) -> Sequence[ServerFacts]:
        """What the servers of the store tell of themselves now. It is not an operation: nothing is counted."""
        return await self._owner.run(self._wrapped.server_facts)

    @property
    def in_flight(self) -> int:
        """The number of operations under way."""
        return len(self._runner.in_flight)

    @property
    def abandoned_calls(self) -> int:
        """The calls of code that we did not write which were left behind, and have not ended."""
        return self._context.lane.abandoned_calls

    @property
    def abandoned_bytes(self) -> int:
        """The bytes that those calls hold."""
        return self._context.lane.abandoned_bytes

    @property
    def is_closed(self) -> bool:
        """Whether `close()` was called."""
        return self._runner.is_closed

    @property
    def has_succeeded(self) -> bool:
        """Whether any operation has succeeded so far."""
        return self._runner.has_succeeded

    @property
    def bypass(self) -> bool:
        """Whether the store is bypassed: gets and look-ups are misses, puts are dropped. All count as `bypassed`.

        Removals, listings and pings still reach the store. May be set from any thread, and holds until it is unset.
        """
        return self._runner.is_bypassed

    @bypass.setter
    def bypass(self, on: bool) -> None:
        if on != self._runner.is_bypassed:
            self._runner.is_bypassed = on
            event(logging.WARNING, "bypass", store=self._store, connector=self.name, on=on)

    def conditions(self) -> tuple[Condition, ...]:
        """What fails so often that the store's service is a bad one now. To be called on the owning loop."""
        return self._runner.conditions.serious()

    @property
    def removals_suspended(self) -> bool:
        """Whether no damaged record is removed for now, since there were too many of them in a short time."""
        return self._removal_policy.is_suspended

    @property
    def metrics(self) -> StoreMetrics:
        """The live counters. `statistics()` returns a copy."""
        return self._runner.metrics

    def statistics(self) -> dict[str, OperationStatistics]:
        """Returns a copy of the counters, by operation name."""
        return self._runner.metrics.snapshot()

    # --------------------------------------------------------------------------------------------- operations

    @_waits_once
    async def exists(self, key: Key) -> bool:
        """Returns whether the store holds the key.

        Raises:
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
        """
        key_string(key)
        if self._recall is not None:
            return await self._owner.run(self._recall.exists, key, self._guarded.exists)
        return await self._owner.run(self._guarded.exists, key)

    @_waits_once
    async def get(self, key: Key) -> MemoryObj | None:
        """Returns the chunk, with one reference for the caller. None is a miss, or a record that does not verify.

        Raises:
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
            ArenaExhaustedError: the arena had no room for the chunk in time.
        """
        key_string(key)
        if self._recall is not None:
            return await self._owner.run(self._recall.get, key, self._guarded.get)
        return await self._owner.run(self._guarded.get, key)

    @_waits_once
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Stores the chunk. Borrows `memory_obj`: nothing touches it when this has returned or raised.

        Raises:
            InvalidKeyError: a key is empty, too long, or of another type.
            ReleasedObjectError: the chunk was released before.
            ForeignObjectError: the chunk is not of this connector's memory.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
        """
        key_string(key)
        nbytes = size_of_borrowed(memory_obj, self._context.local_cpu_backend)
        self._forget((key,))
        memory_obj.ref_count_up()  # as Holds does it for a batch
        try:
            await self._owner.run(self._guarded.put, key, memory_obj, nbytes)
        finally:
            memory_obj.ref_count_down()

    @_waits_once
    async def remove(self, key: Key) -> bool:
        """Removes the key. Returns whether it was there."""
        key_string(key)
        try:
            return await self._owner.run(lambda: self._runner.run(REMOVE, self._wrapped.remove, (key,)))
        finally:
            self._forget((key,))

    @_waits_once
    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes keys. Returns for each whether it is gone now. One that was not there counts as gone."""
        wanted = await checked_keys(self._owner, keys)
        try:
            return await self._owner.run(self._guarded.batched_remove, wanted)
        finally:
            self._forget(wanted)

    @_waits_once
    async def list(self) -> Names:
        """Returns every key in the store, in no particular order. `scan` does not hold them all in memory.

        A failure raises in both error modes, because half a listing must not look like a whole one.
        """
        return await self._owner.run(lambda: self._runner.run(LIST, self._listing.whole, (self._wrapped,)))

    @_waits_once
    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """Returns for every key, in order, what the store says of its chunk; None where it does not hold the key.

        With `records`, also what the chunk's record says. Moves no payload, and changes nothing. A failure raises in
        both error modes.

        Raises:
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
        """
        wanted = await checked_keys(self._owner, keys)
        call = partial(self._wrapped.describe, records=records)
        return await self._owner.run(lambda: self._runner.run(DESCRIBE, call, (wanted,), load_of_keys(len(wanted))))

    def support_expiry(self) -> bool:
        """Whether the store can be told when to forget a chunk."""
        return self._wrapped.support_expiry()

    @_waits_once
    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """Has the store forget chunks after so many seconds, one number per key. Returns for each whether it is set.

        False: the store does not hold the key. A failure raises in both error modes.

        Raises:
            InvalidArgumentError: the counts differ, or a number is not above 0.
            UnsupportedOperationError: this store forgets nothing by a time; see `support_expiry`.
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
        """
        wanted = await checked_keys(self._owner, keys)
        seconds = checked_ttls(ttls, len(wanted))
        try:
            return await self._owner.run(
                lambda: self._runner.run(EXPIRE, self._wrapped.expire, (wanted, seconds), load_of_keys(len(wanted)))
            )
        finally:
            self._forget(wanted)

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`, none twice. Keys written or removed meanwhile may be missing.

        A failure raises in both error modes.
        """
        names = self._paged(self._wrapped.scan(prefix), are_keys=True)
        seen = SeenNames()
        try:
            async for name in names:
                if seen.add(name):
                    yield name
        finally:
            await end_scan(names)

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the store's names of what an earlier release stored. A failure raises in both error modes."""
        names = self._paged(self._wrapped.scan_outdated(prefix), are_keys=False)
        try:
            async for name in names:
                yield name
        finally:
            await end_scan(names)

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Removes what `scan_outdated` has named. Returns how many of the names are gone by that."""
        check_batch(names)
        load = load_of_keys(len(names))
        return await self._owner.run(
            lambda: self._runner.run(REMOVE_OUTDATED, self._wrapped.remove_outdated, (names,), load)
        )

    async def _paged(self, names: AsyncIterator[str], are_keys: bool) -> AsyncIterator[str]:
        """Yields what a scan of the connector yields. Each page has a deadline of its own."""
        try:
            is_last = False
            while not is_last:
                found, is_last = await self._page(names, are_keys)
                for name in found:
                    yield name
        finally:
            if not self.is_closed:
                await self._owner.run(end_scan, names)

    @_waits_once
    async def _page(self, names: AsyncIterator[str], are_keys: bool) -> tuple[Names, bool]:
        return await self._owner.run(lambda: self._runner.run(SCAN, self._listing.page, (names, are_keys)))

    def find_hot_cache(self) -> HotCache | None:
        """The hot cache on the way to the store; None where the URL has none (`hot+<scheme>://`)."""
        return self._wrapped.find_hot_cache()

    def support_ping(self) -> bool:
        """Whether `ping` asks the store."""
        return self._wrapped.support_ping()

    @_waits_once
    async def ping(self) -> int:
        """Returns 0 when the store answers. A failure raises. Asks the store also while the circuit breaker is open."""
        return await self._owner.run(lambda: self._runner.run(PING, self._wrapped.ping))

    @_waits_once
    async def check(self) -> int:
        """`ping` for those who watch over the connector. It is not in the statistics."""
        return await self._owner.run(lambda: self._runner.run(CHECK, self._wrapped.ping))

    def support_announcements(self) -> bool:
        """Whether the store can say which workers use it."""
        return self._wrapped.support_announcements()

    @_waits_once
    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Keeps a worker's document in the store for `ttl` seconds, away from the chunks.

        Raises:
            ConnectorClosedError, UnsupportedOperationError, StoreError and its subclasses: in both error modes.
        """
        return await self._owner.run(
            lambda: self._runner.run(ANNOUNCE, self._wrapped.announce, (worker, document, ttl))
        )

    @_waits_once
    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document, where there is one.

        Raises:
            ConnectorClosedError, UnsupportedOperationError, StoreError and its subclasses: in both error modes.
        """
        return await self._owner.run(lambda: self._runner.run(WITHDRAW, self._wrapped.withdraw, (worker,)))

    @_waits_once
    async def announced(self) -> Documents:
        """Returns the documents of the workers that use the store, for `WorkerAnnouncement.decode`.

        Raises:
            ConnectorClosedError, UnsupportedOperationError, StoreError and its subclasses: in both error modes.
        """
        return await self._owner.run(lambda: self._runner.run(ANNOUNCED, self._wrapped.announced))

    @_waits_once
    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for every key, in order, whether the store holds it."""
        wanted = await checked_keys(self._owner, keys)
        if self._recall is not None:
            return await self._owner.run(self._recall.batched_exists, wanted, self._guarded.batched_exists)
        return await self._owner.run(self._guarded.batched_exists, wanted)

    @_waits_once
    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Key], pin: bool = False) -> int:
        """Returns how many keys there are before the first that the store does not hold."""
        return prefix_length(await self.batched_exists(keys))

    @_waits_once
    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """Returns one slot per key, in order: the chunk with one reference for the caller, or None for a miss.

        When it raises, the caller holds nothing.
        """
        wanted = await checked_keys(self._owner, keys)
        if self._recall is not None:
            return await self._owner.run(self._recall.batched_get, wanted, self._guarded.batched_get)
        return await self._owner.run(self._guarded.batched_get, wanted)

    @_waits_once
    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Key]) -> Hits:
        """Returns the chunks before the first miss, and releases those behind it."""
        return hit_prefix(await self.batched_get(keys))

    @_waits_once
    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """`put` for every pair. When it raises, some of the pairs may have been stored; none is torn."""
        wanted = await checked_keys(self._owner, keys)
        objs = listed_objects(memory_objs)
        if len(wanted) != len(objs):
            raise InvalidArgumentError("memory_objs", f"{len(objs)} objects for {len(wanted)} keys")
        memory = self._context.local_cpu_backend
        nbytes = sum(size_of_borrowed(obj, memory) for obj in objs)
        self._forget(wanted)
        with Holds(objs):
            await self._owner.run(self._guarded.batched_put, wanted, objs, nbytes)

    @_waits_once
    async def get_into(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """`batched_get_into` for one key: whether `buffer` now holds exactly the key's chunk, verified."""
        with await caller_memory(self._owner, [key], [buffer], metadata, writable=True) as theirs:
            return (await self._owner.run(self._into, GET_INTO, theirs, self._guarded.get_into)).flags[0]

    @_waits_once
    async def put_from(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """`batched_put_from` for one key: whether the chunk in `buffer` was stored."""
        with await caller_memory(self._owner, [key], [buffer], metadata, writable=False) as theirs:
            self._forget(theirs.keys)
            return (await self._owner.run(self._guarded.put_from, theirs)).flags[0]

    @_waits_once
    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Receives chunks into memory that the caller owns. Returns for each key, in order, whether it has come.

        `buffers` has one item per key: a writable buffer, or a sequence of buffers that are filled one after the other
        (`regions_of`). `metadata` is one description for all keys or one per key, which the stored one must equal.

        True: the buffers hold exactly the key's chunk, verified. False: the store does not hold it, or holds a record
        of another length, with other metadata, of another key, or a damaged one. Where `errors` is `miss`, also: the
        store failed. The bytes behind a False answer, or an error, are undefined.

        When this has ended, in whatever way, nothing touches the buffers any more.

        Raises:
            InvalidArgumentError: counts differ, a buffer is read-only, not contiguous, overlaps another one or is not a
                buffer, or metadata has another number of bytes. The store was not asked.
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
            ArenaExhaustedError: the arena had no room for the chunk in time.
        """
        with await caller_memory(self._owner, keys, buffers, metadata, writable=True) as theirs:
            return (await self._owner.run(self._into, BATCHED_GET_INTO, theirs, self._guarded.batched_get_into)).flags

    @_waits_once
    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Stores chunks from memory that the caller owns. Returns for each key, in order, whether it was stored.

        `buffers` is as for `batched_get_into`, and may be read-only and overlap. A chunk without metadata is stored as
        uint8 of its length. It is not tried again after a failure.

        True: the store has acknowledged the chunk. False: it was not stored, or nobody knows; where `errors` is `miss`,
        that is what a failure gives for every key.

        When this has ended, in whatever way, nothing reads the buffers any more.

        Raises:
            InvalidArgumentError: counts differ, a buffer is not contiguous or not a buffer, or metadata has another
                number of bytes. The store was not asked.
            InvalidKeyError: a key is empty, too long, or of another type.
            ConnectorClosedError: this connector is closed.
            StoreError: the store has failed. Its subclasses say how.
            ArenaExhaustedError: the arena had no room for the chunk in time.
        """
        with await caller_memory(self._owner, keys, buffers, metadata, writable=False) as theirs:
            self._forget(theirs.keys)
            return (await self._owner.run(self._guarded.batched_put_from, theirs)).flags

    # ------------------------------------------------------------------------------- for applications, from these

    @asynccontextmanager
    async def chunk(self, key: Key) -> AsyncGenerator[MemoryObj, None]:
        """`async with connector.chunk(key) as chunk:` gets a chunk, and releases it at the end of the block.

        Views of it keep its memory beyond that end. See `MemoryObj`.

        Raises:
            ChunkMissingError: `get` gives None.
            LMCacheConnectError: as `get` raises it.
        """
        chunk = await self.get(key)
        if chunk is None:
            raise ChunkMissingError(key_string(key))
        with chunk:
            yield chunk

    async def put_tensor(self, key: Key, tensor: torch.Tensor) -> None:
        """Puts a torch tensor on the CPU, from its own memory: `put(key, chunk_of(tensor))`.

        Leave the tensor as it is until this has ended.

        Raises:
            LMCacheConnectError: as `chunk_of` and `put` raise it.
        """
        await self.put(key, chunk_of(tensor))

    async def get_tensor(self, key: Key) -> torch.Tensor | None:
        """Returns the chunk as a torch tensor on the CPU, or None for a miss.

        The tensor lies in the arena and is not a copy. It, and every view of it, keeps that room: `clone()` what is to
        stay for long. A chunk from a hot cache is copied, since others hold it too.

        Raises:
            MissingExtraError: torch is not installed.
            InvalidShapeError: the chunk has several tensor groups.
            LMCacheConnectError: as `get` raises it.
        """
        chunk = await self.get(key)
        return None if chunk is None else await tensor_of_async(chunk)

    async def put_array(self, key: Key, array: numpy.ndarray[Any, Any]) -> None:
        """Puts a numpy array, from its own memory: `put(key, chunk_of(array))`.

        Leave the array as it is until this has ended.

        Raises:
            LMCacheConnectError: as `chunk_of` and `put` raise it.
        """
        await self.put(key, chunk_of(array))

    async def get_array(self, key: Key) -> numpy.ndarray[Any, Any] | None:
        """Returns the chunk as a numpy array, or None for a miss.

        The array lies in the arena and is not a copy. It, and every view of it, keeps that room: `copy()` what is to
        stay for long. A chunk from a hot cache is a read-only array, since others hold it too.

        Raises:
            MissingExtraError: numpy is not installed.
            InvalidShapeError: numpy has no such dtype (bfloat16, fp8), or the chunk has several tensor groups.
            LMCacheConnectError: as `get` raises it.
        """
        chunk = await self.get(key)
        return None if chunk is None else array_of(chunk)

    def iterate(
        self, keys: Iterable[KeyT] | AsyncIterable[KeyT], on_progress: OnProgress | None = None
    ) -> AsyncGenerator[tuple[KeyT, MemoryObj | None], None]:
        """Yields each of any number of keys, in order, with its chunk; None for a miss.

        The chunk is released when the next one is asked for: `chunk.ref_count_up()` keeps it, and its holder releases
        it then. Keys are got in batches that take half of the memory at most, one ahead of the loop. `keys` may be a
        generator, or `scan()`: it is read no further than that. `on_progress` is called behind each turn. Leave the
        loop whenever you like: what has come ahead is released.

        Raises:
            ArenaExhaustedError: a chunk is larger than the memory, or others hold so much of it that there was no room
                in time.
            LMCacheConnectError: as `batched_get` and `get` raise it. The generator ends with that.
        """
        return self._windows(keys).chunks(Tally(keys, on_progress))

    async def put_all(self, pairs: Iterable[Pair] | AsyncIterable[Pair], on_progress: OnProgress | None = None) -> int:
        """Puts any number of pairs of a key and a chunk. Returns how many.

        `pairs` may be a generator, best an async one: while a batch is put it makes the next chunks. Each chunk is
        borrowed, and held until it was put. So a generator may release its own reference when it goes on, as
        `with chunk: yield key, chunk` does. What is behind a `chunk_of` must stay as it is until this has ended.
        `on_progress` is called after each batch.

        Raises:
            LMCacheConnectError: as `batched_put` raises it. Some of the pairs may have been stored then; none is torn.
        """
        tally = Tally(pairs, on_progress)
        await WindowedPuts(self, self._context.local_cpu_backend, tally).run(pairs)
        return tally.done

    def exists_sync(self, key: Key) -> bool:
        """`exists` for a thread without an event loop; raises `SyncCallOnLoopError` on the owning loop's thread."""
        return self.sync.exists(key)

    def remove_sync(self, key: Key) -> bool:
        """`remove` for a thread without an event loop; raises `SyncCallOnLoopError` on the owning loop's thread."""
        return self.sync.remove(key)

    def batched_contains(self, keys: Sequence[Key]) -> int:
        """`batched_async_contains` for a thread without an event loop."""
        return self.sync.contains(keys)

    def reshape_partial_chunk(self, memory_obj: MemoryObj, bytes_read: int) -> MemoryObj:
        """As the wrapped connector does it."""
        return self._wrapped.reshape_partial_chunk(memory_obj, bytes_read)

    # ------------------------------------------------------------------------------------------------- closing

    @_waits_once
    async def close(self, grace: float | None = None) -> None:
        """Stops new work, lets operations in flight finish for `grace` seconds, cancels the rest. Idempotent.

        Operations that are cancelled raise `ConnectorClosedError`, and so does every later one. Concurrent calls wait
        for the same end. In a fork only this object is marked closed; the parent's sockets are left alone.
        """
        if self._owner.is_forked():
            self._runner.refuse()
            return
        seconds = self._settings.close_grace if grace is None else grace
        await self._owner.run(self._lifetime.close, self._wrapped, seconds)
        await self._lifetime.run_after_close()

    def then_close(self, close: Callable[[], Awaitable[None]]) -> None:
        """Awaits `close` after the connector's own end: for a connector that owns what it was made with."""
        self._lifetime.then_close(close)

    @_waits_once
    async def recreate(
        self, make: Callable[[], Awaitable[tuple[RemoteConnector, ConnectorContext]]], grace: float | None = None
    ) -> None:
        """Takes a new connector from `make` in place of the one inside, which is then closed as `close()` does it.

        Further calls go to the new one, with the circuit breaker closed. A connector that was closed is open again.
        Calls under way finish with the old one. Cancelling the caller does not stop the old one's end. This is for the
        manager, whose `recreate` says what to make.

        Raises:
            Exception: as `make` raises it. Nothing has changed then.
        """
        await self._owner.run(self._recreate, make, self._settings.close_grace if grace is None else grace)

    async def _recreate(
        self, make: Callable[[], Awaitable[tuple[RemoteConnector, ConnectorContext]]], grace: float
    ) -> None:
        await self._lifetime.wait_closed()
        made, context = await make()
        before = self._wrapped
        open_cache = _closed_until_called(made.find_hot_cache(), before.find_hot_cache())
        self._wrapped, self._context = made, context
        self._attach_inside(made, context)
        self._use_inside()
        event(logging.WARNING, "connector_recreated", store=self._store, connector=self.name)
        await self._lifetime.replace(before, grace, open_cache)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        runner = getattr(self, "_runner", None)
        if runner is None or runner.is_closed or self._owner.is_forked():
            return
        _warn(
            f"{self!r} was never closed: await its close(), or close its manager",
            ResourceWarning,
            stacklevel=1,
        )
        close_soon(self._wrapped, self._owner.loop)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        if not self.is_closed and self.breaker_state is not BreakerState.CLOSED:
            state += f", breaker {self.breaker_state.value}"
        return f"<ManagedConnector {self._store} ({self._class_name}), {state}>"

    # ------------------------------------------------------------------------------------------------ internal

    def _attach_inside(self, wrapped: RemoteConnector, context: ConnectorContext) -> None:
        # No reference back to this object.
        staging = Staging(context.local_cpu_backend, context.settings.allocate_timeout)
        wrapped._attach(context.owner, note_corrupt, self._removal_policy, staging)

    def _use_inside(self) -> None:
        """Makes what depends on the connector inside. Its hot cache, if it has one, is asked first, and counted."""
        self._guarded.use(self._wrapped)
        self._runner.in_flight.ends_when_cancelled = self._wrapped.ends_when_cancelled
        # One behind another wrapper is asked by that wrapper alone, which must see every call.
        cache = self._wrapped.own_hot_cache()
        self._recall = Recall(cache, self._runner) if cache is not None else None
        calls = self._wrapped.own_thread_calls() if self._recall is None else None
        self.sync.own_thread = self._own_thread_of(calls) if calls is not None else None
        if (cache := self._wrapped.find_hot_cache()) is not None:
            cache.count_into(self._runner.metrics.hot_cache)

    def _own_thread_of(self, calls: OwnThreadCalls) -> OwnThread:
        return OwnThread(
            calls,
            self._runner,
            self._context,
            self._chunk_size,
            is_current=lambda here: self.sync.own_thread is here,
            forget=self._forget,
            go_on={
                EXISTS.name: self._guarded.exists,
                GET.name: self._guarded.get,
                PUT.name: self._guarded.put_held,
                GET_INTO.name: self._guarded.get_into,
                PUT_FROM.name: self._guarded.put_from,
            },
        )

    def _into(
        self,
        operation: Operation[Transferred],
        theirs: CallerMemory,
        ask: Callable[[CallerMemory], Coroutine[Any, Any, Transferred]],
    ) -> Coroutine[Any, Any, Transferred]:
        return ask(theirs) if self._recall is None else self._recall.into(operation, theirs, ask)

    def _windows(self, keys: Iterable[KeyT] | AsyncIterable[KeyT]) -> WindowedGets[KeyT]:
        return WindowedGets(self, self._context.local_cpu_backend, keys, self._chunks_without_room)

    def _chunks_without_room(self) -> int:
        misses = self._runner.metrics.operation(BATCHED_GET.name).misses
        return sum(misses[reason] for reason in _WITHOUT_ROOM)

    def _forget(self, keys: Sequence[Key]) -> None:
        """Drops keys that change from the hot cache of the memory, which other connectors may have filled."""
        cache = self._context.local_cpu_backend.hot_cache
        if cache is not None and len(cache):
            for key in keys:
                cache.remove(key)


def _closed_until_called(cache: HotCache | None, before: HotCache | None) -> Callable[[], None]:
    """Has a new hot cache take nothing until the result is called: calls that change the store are still under way.

    They do not know of it. So what is read before their end may be old, and must not stand in the cache after it. The
    new one is then on or off as the one before it was.
    """
    if cache is None:
        return lambda: None
    is_enabled = cache.enabled and (before is None or before.enabled)
    cache.enabled = False

    def open_cache() -> None:
        cache.clear()  # nothing that began before now fills it
        cache.enabled = is_enabled

    return open_cache


def _author_of(connector: RemoteConnector) -> object:
    """The author's own object, out of what holds it to the rules."""
    if isinstance(connector, OutsideConnector):
        connector = connector.wrapped
    return connector.foreign if isinstance(connector, ForeignConnector) else connector
