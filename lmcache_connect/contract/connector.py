"""`RemoteConnector`: what an author of a connector writes."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from ..errors import (
    CorruptRecordError,
    InvalidArgumentError,
    InvalidShapeError,
    LoopNotRunningError,
    UnsupportedOperationError,
)
from ..keys import Key, check_batch, key_string
from ..known_secrets import clean_foreign
from ..loop import LoopOwner
from ..memory import HotCache, MemoryObj, release_all
from ..metadata import ChunkMetadata
from ..observability import event
from .batches import gather, hit_prefix, prefix_length
from .caller_memory import CallerMemory, Descriptions
from .key_facts import KeyFacts
from .own_thread import OwnThreadCalls
from .removal import RemovalPolicy
from .server_facts import ServerFacts
from .server_state import ServerState
from .single_gets import SingleGets
from .staging import Staging, get_copied, put_copied

T = TypeVar("T")

# Named, because inside a class with a method `list` the builtin cannot be.
Flags: TypeAlias = list[bool]
"""One answer per key, in order."""
Slots: TypeAlias = list[MemoryObj | None]
"""One slot per key, in order: the chunk with a reference for the caller, or None for a miss."""
Hits: TypeAlias = list[MemoryObj]
"""Chunks without a gap, each with a reference for the caller."""
Documents: TypeAlias = list[bytes]
FactSlots: TypeAlias = list[KeyFacts | None]
"""One slot per key, in order: what the store says of its chunk, or None where it does not hold it."""


class RemoteConnector(ABC):
    """Puts chunks into one store and gets them back. Runs on one event loop: the one it was made for.

    An author writes `exists`, `get`, `put`, `list` and `close`; everything else works and may be overridden where the
    store can do better. The rules, which `lmcache_connect.testing` checks:

    * `get` of a missing key is None. The caller owns the one reference of what it gets.
    * `put` borrows: the caller keeps its reference, and when `put` returns, raises or is cancelled, nothing of the
      connector touches the buffer any more.
    * A record that does not verify is never returned: it raises `CorruptRecordError`, or goes to `discard_corrupt`.
    * Batches are positional: one slot per key, always.
    * No call blocks the event loop. A failure is an error of `lmcache_connect.errors`, raised `from` the driver's.
    """

    # Class attributes, so that a subclass which never calls super().__init__() works as well.
    _bound_to: LoopOwner | None = None
    _on_corrupt: Callable[[CorruptRecordError], None] | None = None
    _removals: RemovalPolicy | None = None
    _staging: Staging | None = None
    _told_failures: frozenset[str] = frozenset()
    config: Any = None
    metadata: Any = None

    repeats_itself: bool = False
    """Whether this connector repeats requests that failed itself, out of a budget of its own, inside the deadline.

    The manager then repeats nothing: two that repeat multiply each other's load on a store that fails. `seconds_left`
    tells such a connector how long it has.
    """

    judges_itself: bool = False
    """Whether this connector has circuit breakers of its own, such as one for each of several servers.

    The manager's own breaker then stays closed: one server that fails must not keep calls from the others.
    """

    ends_when_cancelled: bool = False
    """Whether one `asyncio.Task.cancel` ends every call of this connector soon, with its `CancelledError`.

    The manager then ends a call that is late by that. Otherwise it cancels the call in each iteration of the loop until
    it ends, which costs each call more: some connectors swallow a cancellation. An author who says True promises that
    no call catches a `CancelledError` and goes on.
    """

    tells_what_came: bool = False
    """Whether `Regions.is_filled` holds after a `batched_get_into` of this connector that failed or was cancelled.

    A connector around another one that looks at what comes, or changes it, leaves this False: it has not seen the
    chunks of a call that failed.
    """

    def __init__(self, config: Any = None, metadata: Any = None) -> None:
        self.config = config
        self.metadata = metadata

    # ---------------------------------------------------------------------------------------- an author's part

    @abstractmethod
    async def exists(self, key: Key) -> bool:
        """Returns whether the store holds the key."""

    @abstractmethod
    async def get(self, key: Key) -> MemoryObj | None:
        """Returns the chunk, with one reference for the caller, or None where the store does not hold it.

        Raises:
            CorruptRecordError: the store holds a record under the key that does not verify.
            ArenaExhaustedError: there was no room for the chunk in time.
        """

    @abstractmethod
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        """Stores the chunk's bytes, replacing what was there. Borrows `memory_obj`."""

    @abstractmethod
    async def list(self) -> list[str]:
        """Returns every key in the store, in no particular order."""

    @abstractmethod
    async def close(self) -> None:
        """Closes what the connector has open. Idempotent. The manager calls it when no operation is under way."""

    # --------------------------------------------------------------------------------------- working defaults

    def post_init(self) -> None:  # noqa: B027 - an optional hook
        """Called once, after the connector was made and before its first operation."""

    async def ping(self) -> int:
        """Returns 0 when the store answers. A failure raises."""
        raise UnsupportedOperationError(type(self).__name__, "ping")

    def support_ping(self) -> bool:
        """Whether `ping` asks the store."""
        return type(self).ping is not RemoteConnector.ping

    async def remove(self, key: Key) -> bool:
        """Removes the key. Returns whether it was there."""
        raise UnsupportedOperationError(type(self).__name__, "remove")

    async def batched_remove(self, keys: Sequence[Key]) -> Flags:
        """Removes keys. Returns for each whether it is gone now. One that was not there counts as gone."""
        check_batch(keys)

        async def gone(key: Key) -> bool:
            await self.remove(key)
            return True

        return await gather([self._thunk(gone, key) for key in keys])

    async def scan(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the keys that start with `prefix`, without holding all of them where the store allows it."""
        for name in await self.list() or ():  # careless connectors answer None for no keys
            if name.startswith(prefix):
                yield name

    async def scan_outdated(self, prefix: str = "") -> AsyncIterator[str]:
        """Yields the store's names of what an earlier release stored under keys that start with `prefix`.

        Nothing reads it any more, and `list` and `scan` do not name it. The names are for `remove_outdated`; they are
        not keys. The default yields nothing.
        """
        nothing: Sequence[str] = ()
        for name in nothing:
            yield name

    async def remove_outdated(self, names: Sequence[str]) -> int:
        """Removes what `scan_outdated` has named. Returns how many of the names are gone by that."""
        return 0

    async def describe(self, keys: Sequence[Key], *, records: bool = False) -> FactSlots:
        """Returns for every key, in order, what the store says of its chunk; None where it does not hold the key.

        `records`: also what the chunk's record says: metadata, checksums, and what is wrong with it. No payload is
        moved, nothing is changed, and nothing is removed. The default knows whether the keys are there, and no more.

        Raises:
            StoreError: the store has failed for one of the keys.
        """
        return [KeyFacts() if is_there else None for is_there in await self.batched_exists(keys)]

    def support_expiry(self) -> bool:
        """Whether the store can be told when to forget a chunk: `expire`."""
        return type(self).expire is not RemoteConnector.expire

    async def expire(self, keys: Sequence[Key], ttls: Sequence[float]) -> Flags:
        """Has the store forget chunks that it holds after so many seconds, one number per key, above 0.

        Returns for each key whether the store has set it. False: it does not hold the key.
        """
        raise UnsupportedOperationError(type(self).__name__, "expire")

    def own_thread_calls(self) -> OwnThreadCalls | None:
        """What makes single calls in the threads of blocking callers; None: all calls run on the event loop."""
        return None

    def own_hot_cache(self) -> HotCache | None:
        """The cache in this process that the connector asks before its store; None where it has none."""
        return None

    def find_hot_cache(self) -> HotCache | None:
        """The first hot cache on the way to the store: the connector's own, or that of one inside it; None: none."""
        return self.own_hot_cache()

    def servers(self) -> Sequence[ServerState]:
        """What is known of each server, where each of several has a circuit breaker of its own. From any thread."""
        return ()

    async def server_facts(self) -> Sequence[ServerFacts]:
        """What the servers of the store tell of themselves now. Those that do not tell, or do not answer, are left out.

        It is asked every few seconds, by those who watch over the store.

        Raises:
            StoreError: the store has failed. Its subclasses say how.
        """
        return ()

    def support_announcements(self) -> bool:
        """Whether the store can say which workers use it: `announce`, `withdraw` and `announced`."""
        return type(self).announce is not RemoteConnector.announce

    async def announce(self, worker: str, document: bytes, ttl: float) -> None:
        """Keeps a worker's document in the store for `ttl` seconds, away from the chunks."""
        raise UnsupportedOperationError(type(self).__name__, "announce")

    async def withdraw(self, worker: str) -> None:
        """Removes a worker's document, where there is one."""
        raise UnsupportedOperationError(type(self).__name__, "withdraw")

    async def announced(self) -> Documents:
        """Returns the documents that have not expired. Any writer of the store may have made them."""
        raise UnsupportedOperationError(type(self).__name__, "announced")

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        """Returns for every key, in order, whether the store holds it."""
        check_batch(keys)
        return await gather([self._thunk(self.exists, key) for key in keys])

    async def batched_get(self, keys: Sequence[Key]) -> Slots:
        """Returns one slot per key, in order: the chunk, or None for a miss. When it raises, nothing is held.

        A record that does not verify, or a chunk that is larger than the memory, is a miss in its own slot, counted.
        Where there is no room for all chunks, the result is the prefix that fits. The rest are misses, counted as
        `no_room`. Where `get` raises an exception of its author's own for some of the keys, those are misses, counted
        as `failed:<class>`, if `exists` then answers for another of the keys. If it raises, the store has failed.

        Raises:
            ArenaExhaustedError: there was no room in time, and no chunk has come.
            LMCacheConnectError: as `get` and `exists` raise it.
            OSError: as `get` and `exists` raise it, and what else they raise for the keys in general.
        """
        check_batch(keys)
        return await SingleGets(keys, self.get, self.exists, self.discard_corrupt, self._tell_bad_item).run()

    async def batched_put(self, keys: Sequence[Key], memory_objs: Sequence[MemoryObj]) -> None:
        """`put` for every pair. When it raises, some of the pairs may have been stored."""
        check_batch(keys)
        if len(keys) != len(memory_objs):
            raise InvalidArgumentError("memory_objs", f"{len(memory_objs)} objects for {len(keys)} keys")
        await gather([self._thunk(self.put, key, obj) for key, obj in zip(keys, memory_objs, strict=True)])

    async def get_into(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """`batched_get_into` for one key."""
        return (await self.batched_get_into([key], [buffer], None if metadata is None else [metadata]))[0]

    async def put_from(self, key: Key, buffer: Any, metadata: ChunkMetadata | None = None) -> bool:
        """`batched_put_from` for one key."""
        return (await self.batched_put_from([key], [buffer], None if metadata is None else [metadata]))[0]

    async def batched_get_into(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Receives chunks into memory that the caller owns. Returns for each key, in order, whether it has come.

        `buffers` has one item per key: a writable buffer, or a sequence of buffers that are filled one after the other.
        See `regions_of`. `metadata` is one description for all, or one per key, which the stored one must then equal.

        True: the buffers hold exactly this key's chunk, verified. False: the store has no such key, or its record has
        another length, other metadata, another key in it, or is damaged. It is then undefined which bytes of the
        buffers were written to. The same holds for all of them where this raises or is cancelled.

        When this has returned, raised or been cancelled, nothing touches the buffers any more.

        The default copies what `batched_get` brings, once. It needs the connector's memory for that, and has the keys
        that found no room be False, counted as `no_room`. A connector that can receives where the caller wants it.

        Raises:
            InvalidArgumentError: the arguments do not fit each other, or one is not a buffer; see `CallerMemory.of`.
            StoreError: as `batched_get` raises it.
        """
        with CallerMemory.of(keys, buffers, metadata, writable=True) as theirs:
            return await get_copied(theirs, self._staging, self._positional_get)

    async def batched_put_from(
        self, keys: Sequence[Key], buffers: Sequence[Any], metadata: Descriptions = None
    ) -> Flags:
        """Stores chunks from memory that the caller owns. Returns for each key, in order, whether it was stored.

        `buffers` is as for `batched_get_into`, and may be read-only. `metadata` is one description for all, or one per
        key. A chunk without one is stored as uint8 of its length. What was stored under the key is replaced.

        True: the store has acknowledged the whole chunk. False, or an error: it may have been stored or not, and what
        was there before may be gone. A record that is found later is whole, and of one put.

        When this has returned, raised or been cancelled, nothing reads the buffers any more.

        The default copies each chunk into the connector's memory, once, and calls `batched_put`.

        Raises:
            InvalidArgumentError: the arguments do not fit each other, or one is not a buffer; see `CallerMemory.of`.
            ArenaExhaustedError: the default found no room for a copy in time.
            StoreError: as `batched_put` raises it.
        """
        with CallerMemory.of(keys, buffers, metadata, writable=False) as theirs:
            return await put_copied(theirs, self._staging, self.batched_put)

    async def batched_async_contains(self, lookup_id: str, keys: Sequence[Key], pin: bool = False) -> int:
        """Returns how many keys there are before the first that the store does not hold.

        `lookup_id` and `pin` are of LMCache's signature, and mean nothing to a remote store.
        """
        return prefix_length(await self.batched_exists(keys))

    async def batched_get_non_blocking(self, lookup_id: str, keys: Sequence[Key]) -> Hits:
        """Returns the chunks before the first miss, and releases those behind it."""
        return hit_prefix(await self.batched_get(keys))

    def exists_sync(self, key: Key) -> bool:
        """`exists` for a thread without an event loop."""
        return self._bound("exists_sync").run_sync("exists_sync", _SYNC_TIMEOUT, self.exists, key)

    def remove_sync(self, key: Key) -> bool:
        """`remove` for a thread without an event loop."""
        return self._bound("remove_sync").run_sync("remove_sync", _SYNC_TIMEOUT, self.remove, key)

    def batched_contains(self, keys: Sequence[Key]) -> int:
        """`batched_async_contains` for a thread without an event loop."""
        return self._bound("batched_contains").run_sync(
            "batched_contains", _SYNC_TIMEOUT, self.batched_async_contains, "", keys
        )

    def support_batched_get(self) -> bool:
        """Whether `batched_get` may be called: always."""
        return True

    def support_batched_put(self) -> bool:
        """Whether `batched_put` may be called: always."""
        return True

    def support_batched_async_contains(self) -> bool:
        """Whether `batched_async_contains` may be called: always."""
        return True

    def support_batched_get_non_blocking(self) -> bool:
        """Whether `batched_get_non_blocking` may be called: always."""
        return True

    def support_batched_contains(self) -> bool:
        """Whether `batched_contains` may be called: always."""
        return True

    def reshape_partial_chunk(self, memory_obj: MemoryObj, bytes_read: int) -> MemoryObj:
        """Makes a full-sized object, of which `bytes_read` bytes were filled, a chunk of as many tokens.

        Raises:
            InvalidShapeError: `bytes_read` is not a whole number of tokens from 1 to all.
        """
        full = memory_obj.metadata
        per_token = full.nbytes // full.num_tokens
        if not 0 < bytes_read <= full.nbytes or bytes_read % per_token:
            raise InvalidShapeError(
                bytes_read, f"not a multiple of {per_token} bytes, one token's, between 1 and {full.nbytes}"
            )
        if bytes_read < full.nbytes:
            memory_obj.shrink(full.with_tokens(bytes_read // per_token))
        return memory_obj

    async def discard_corrupt(self, key: Key, error: CorruptRecordError) -> None:
        """Counts a record that does not verify, and has it removed where the rules of `RemovalPolicy` allow it.

        For `get` the manager calls this on every `CorruptRecordError`; a connector with batches of its own calls it per
        key. A failure of the removal is logged and not raised. To say how a record is removed, override
        `remove_damaged`, not this.
        """
        name = key_string(key)
        if self._on_corrupt is not None:
            self._on_corrupt(error)
        if self._removals is None:
            self._removals = RemovalPolicy(type(self).__name__)
        is_able = type(self).remove_damaged is not RemoteConnector.remove_damaged
        await self._removals.decide(name, error, self._thunk(self.remove_damaged, key, error) if is_able else None)

    async def remove_damaged(self, key: Key, error: CorruptRecordError) -> bool:
        """Looks again, and removes the record of `key` if it is still damaged and recognisably this toolkit's.

        The default removes nothing, which is always right: the record stays a miss until it is overwritten. An
        override looks a second time, over another connection than the get's, unless the server compares the bytes. It
        removes in one step with that look, so that a record which another writer has put meanwhile stays. Where the
        store has no such step (compare and delete, a transaction, a conditional request), keep the default: `remove` is
        never the answer.

        Called only by `discard_corrupt`, for errors with `removable`, and for at most ten records a minute. A get waits
        for it: it is cancelled after a second.

        Returns:
            Whether the record was removed. False where it verifies now, is gone, or is not this toolkit's.

        Raises:
            UnsupportedOperationError: this store cannot do it in one step.
        """
        return False

    # -------------------------------------------------------------------------------------------------- inside

    def _attach(
        self,
        owner: LoopOwner,
        on_corrupt: Callable[[CorruptRecordError], None],
        removals: RemovalPolicy,
        staging: Staging,
    ) -> None:
        """Called once by the managed connector.

        With the owner of the loop, what counts a corrupt record, what decides whether that is removed, and where copies
        of callers' memory lie.
        """
        self._bound_to = owner
        self._on_corrupt = on_corrupt
        self._removals = removals
        self._staging = staging

    async def _positional_get(self, keys: Sequence[Key]) -> Slots:
        """`batched_get` with one slot per key, also where the connector leaves out misses."""
        found = await self.batched_get(keys)
        if isinstance(found, list) and len(found) == len(keys):
            return found
        release_all(found)  # which chunk belongs to which key is not known, so each key is asked for alone
        return await RemoteConnector.batched_get(self, keys)

    def _tell_bad_item(self, error: Exception) -> None:
        """Logs the first failure of each class. The metrics count the others."""
        failure = type(error).__name__
        if failure not in self._told_failures:
            self._told_failures |= {failure}
            words = clean_foreign(str(error))
            event(logging.WARNING, "bad_item", connector=type(self).__name__, failure=failure, error=words)

    def _bound(self, operation: str) -> LoopOwner:
        if self._bound_to is None:
            raise LoopNotRunningError(f"{operation}() needs a connector that a ConnectorManager made")
        return self._bound_to

    @staticmethod
    def _thunk(func: Callable[..., Awaitable[T]], *args: Any) -> Callable[[], Awaitable[T]]:
        return lambda: func(*args)


_SYNC_TIMEOUT: Final = 60.0
