"""`HotCache`: chunks that stay in memory for as long as their room is not needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ..errors import BackendClosedError
from ..keys import Key, key_string
from ..observability import HotCacheCounts
from ..process import ProcessLock
from .eviction import eviction_policy
from .memory_obj import MemoryObj
from .shared_memory_obj import SharedMemoryObj


class HotCacheStatistics(NamedTuple):
    """What the cache holds, and how many chunks it gave up to make room."""

    chunks: int
    bytes: int
    evictions: int


class _Cached(NamedTuple):
    obj: MemoryObj
    nbytes: int  # when it came in: an object that is shrunk later must not unbalance the sum
    expires: float


class Filling:
    """A right to fill one key, from `HotCache.begin`. It is lost when the key is put, removed or cleared meanwhile."""

    __slots__ = ("_began", "_is_current", "_name")

    def __init__(self, name: str, began: float) -> None:
        self._name: Final = name
        self._began: Final = began
        self._is_current = True

    @property
    def is_current(self) -> bool:
        """Whether what is being fetched or put may still fill the key."""
        return self._is_current


class HotCache:
    """Chunks by key, no older than `ttl` seconds. The cache holds one reference on each. Thread-safe.

    Never waits for I/O. A chunk that somebody else holds or pins is not evicted; it goes when its key is put again,
    removed or cleared, and lives on with its other holders. Everybody who gets a chunk gets a read-only object of his
    own (`SharedMemoryObj`).

    What takes a while, such as a fetch from a store, fills the cache in two steps. `begin` gives a right to fill a key,
    and `fill` or `replace` uses it. The right is lost when the key is put, removed or cleared in between. So what was
    read before a change never stands in the cache after it.
    """

    def __init__(
        self, eviction: str = "LRU", *, ttl: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`eviction` is LRU, LFU, FIFO or MRU. `ttl` is in seconds; None: no limit.

        Raises:
            InvalidArgumentError: there is no such policy.
        """
        self.enabled = True
        """Whether it takes chunks. Switched off, it serves those that it has until they are evicted or removed."""
        self.ttl: Final = ttl
        """The most seconds for which a chunk is served; None: no limit."""
        self.clock: Final = clock
        """Tells the age of chunks, in seconds."""
        self._counts = HotCacheCounts()
        self._policy = eviction_policy(eviction)
        self._chunks: dict[str, _Cached] = {}
        self._fillings: dict[str, list[Filling]] = {}  # those that have begun and not ended, by key
        # Chunks in use, which no eviction looks at until somebody lets go of them: keys by the object's id.
        self._in_use: dict[int, set[str]] = {}
        self._let_go: dict[int, None] = {}  # ids of such objects, from any thread, without the lock
        self._bytes = 0
        self._closed = False
        self._lock = ProcessLock("the hot cache")

    @property
    def counts(self) -> HotCacheCounts:
        """The live counts of hits, misses and evictions."""
        return self._counts

    def count_into(self, counts: HotCacheCounts) -> None:
        """Adds the counts so far to `counts`, and counts there from now on."""
        with self._lock:
            counts.add(self._counts)
            self._counts = counts

    def __len__(self) -> int:
        """The number of chunks. Some may be older than `ttl`: they are dropped when they are met."""
        return len(self._chunks)

    # ------------------------------------------------------------------------------------------------- filling

    def put(self, key: Key, obj: MemoryObj, ttl: float | None = None) -> None:
        """Caches `obj` in place of what is cached under the key, with a reference of the cache's own.

        It is served for `ttl` seconds and for `self.ttl` seconds at most. Switched off, the cache only drops what it
        has under the key.

        Raises:
            ReleasedObjectError: `obj` was released.
            BackendClosedError: after `close()`.
        """
        name = key_string(key)
        with self._lock:
            if self._closed:
                raise BackendClosedError
            obj.get_size()  # raises for a released object, before anything has changed
            self._invalidate(name)
            self._insert(name, obj, self.clock(), ttl)

    def begin(self, key: Key) -> Filling:
        """A right to fill the key with what is fetched or put from now on. It must be ended by `fill` or `replace`.

        The time to live of the chunk counts from here.
        """
        name = key_string(key)
        filling = Filling(name, self.clock())
        with self._lock:
            self._fillings.setdefault(name, []).append(filling)
        return filling

    def fill(self, filling: Filling, obj: MemoryObj | None = None, ttl: float | None = None) -> bool:
        """Ends a fetch, and caches what it brought unless the key was changed meanwhile. Returns whether it did.

        `obj` is None where it brought nothing. `ttl` is as in `put`.
        """
        with self._lock:
            if not self._end(filling) or obj is None:
                return False
            self._drop(filling._name)
            return self._insert(filling._name, obj, filling._began, ttl)

    def replace(self, filling: Filling, obj: MemoryObj | None = None, ttl: float | None = None) -> bool:
        """Ends a change of the key in the store. Returns whether `obj` is cached now.

        What is cached, or being fetched, is dropped in any case. `obj` is what was stored; None where that is not
        certain. It is not cached if another change of the key began or ended meanwhile: nobody here knows which of
        the two the store did last.
        """
        with self._lock:
            is_current = self._end(filling)
            self._invalidate(filling._name)
            return is_current and obj is not None and self._insert(filling._name, obj, filling._began, ttl)

    # ------------------------------------------------------------------------------------------------- reading

    def get(self, key: Key, *, count_miss: bool = True) -> MemoryObj | None:
        """Returns a read-only object for the cached chunk, with one reference for the caller, or None.

        Counts a hit or a miss. `count_miss=False` is for a caller whose next step counts it.
        """
        name = key_string(key)
        with self._lock:
            obj = self._find(name)
            if obj is None:
                self._counts.misses += count_miss
                return None
            self._counts.hits += 1
            self._policy.hit(name)
            return SharedMemoryObj(obj)

    def contains(self, key: Key, pin: bool = False) -> bool:
        """Returns whether the chunk is cached. `pin` pins it in the same step."""
        with self._lock:
            obj = self._find(key_string(key))
            if obj is not None and pin:
                obj.pin()
            return obj is not None

    def unpin(self, key: Key) -> bool:
        """Releases one pin. Returns False where the chunk is not cached or not pinned."""
        with self._lock:
            obj = self._find(key_string(key))
            return obj is not None and obj.unpin()

    def keys(self) -> list[str]:
        """The keys of the cached chunks, as strings."""
        with self._lock:
            now = self.clock()
            return [name for name, cached in self._chunks.items() if cached.expires > now]

    # ------------------------------------------------------------------------------------------------ dropping

    def remove(self, key: Key, force: bool = True) -> bool:
        """Drops a chunk from the cache; other holders keep it. Without `force`, drops only one that may be evicted.

        With `force`, whatever is being fetched for the key does not fill it either. Returns whether it was dropped.
        """
        name = key_string(key)
        with self._lock:
            obj = self._find(name)
            if obj is not None and not (force or obj.can_evict()):
                return False
            if force:
                self._invalidate(name)
            else:
                self._drop(name)
            return obj is not None

    def clear(self, prefix: str = "") -> int:
        """Drops every chunk under `prefix` that is not pinned; other holders keep theirs. Returns how many.

        Whatever is being fetched for such a key does not fill it.
        """
        with self._lock:
            for name in [name for name in self._fillings if name.startswith(prefix)]:
                self._lose_fillings(name)
            names = [
                name
                for name, cached in self._chunks.items()
                if name.startswith(prefix) and not (cached.obj.is_valid() and cached.obj.is_pinned)
            ]
            for name in names:
                self._drop(name)
            return len(names)

    def evict_one(self, owner: object) -> bool:
        """Drops the chunk that the policy names first among those that nobody else holds or pins.

        `owner` is the memory that evicts; it has its objects call `let_go`. Returns False where there was nothing to
        drop. A chunk in use is looked at once for each time that it is let go of, not once for each eviction.
        """
        with self._lock:
            self._put_back_what_was_let_go()
            busy: list[str] = []
            found = None
            for name in self._policy.candidates():
                obj = self._chunks[name].obj
                if not obj.can_evict():
                    if not obj.reports_to(owner):
                        continue
                    busy.append(name)
                    self._in_use.setdefault(id(obj), set()).add(name)
                    if not obj.can_evict():  # looked at again: before, `let_go` did not know that it was awaited
                        continue
                    self._in_use_no_more(busy.pop(), obj)
                found = name
                break
            for name in busy:
                self._policy.set_aside(name)
            if found is None:
                return False
            self._counts.evictions += 1
            self._drop(found)
            return True

    def let_go(self, obj: MemoryObj) -> None:
        """Called when a reference or a pin of a cached object was released. Takes no lock; from any thread."""
        if id(obj) in self._in_use:
            self._let_go[id(obj)] = None

    def evictable_bytes(self) -> int:
        """Bytes of memory, in whole pages, that evicting every chunk that may be evicted would free."""
        with self._lock:
            objs = [cached.obj for cached in self._chunks.values()]
            return sum(obj.get_physical_size() for obj in objs if obj.is_valid() and obj.can_evict())

    def statistics(self) -> HotCacheStatistics:
        """What the cache holds now."""
        with self._lock:
            return HotCacheStatistics(len(self._chunks), self._bytes, self._counts.evictions)

    def close(self) -> None:
        """Drops every chunk, and takes no more. Idempotent."""
        with self._lock:
            self._closed = True
            for name in list(self._fillings):
                self._lose_fillings(name)
            for name in list(self._chunks):
                self._drop(name)

    # -------------------------------------------------------------------------------------------------- inside

    def _find(self, name: str) -> MemoryObj | None:
        cached = self._chunks.get(name)
        if cached is None:
            return None
        # Its owner may have released one reference too many: the cache's own. The chunk is gone; the cache goes on.
        if cached.obj.is_valid() and (cached.expires == math.inf or cached.expires > self.clock()):
            return cached.obj
        self._drop(name)
        return None

    def _insert(self, name: str, obj: MemoryObj, began: float, ttl: float | None) -> bool:
        limit = min(math.inf if self.ttl is None else self.ttl, math.inf if ttl is None else ttl)
        if self._closed or not self.enabled or began + limit <= self.clock():
            return False
        nbytes = obj.get_size()
        obj.ref_count_up()
        self._chunks[name] = _Cached(obj, nbytes, began + limit)
        self._bytes += nbytes
        self._policy.insert(name)
        return True

    def _end(self, filling: Filling) -> bool:
        """Ends the right. Returns whether it was still held."""
        is_current, filling._is_current = filling._is_current, False
        if is_current:
            others = self._fillings[filling._name]
            others.remove(filling)
            if not others:
                del self._fillings[filling._name]
        return is_current

    def _invalidate(self, name: str) -> None:
        self._lose_fillings(name)
        self._drop(name)

    def _lose_fillings(self, name: str) -> None:
        for filling in self._fillings.pop(name, ()):
            filling._is_current = False

    def _put_back_what_was_let_go(self) -> None:
        while self._let_go:
            for name in self._in_use.pop(self._let_go.popitem()[0], ()):
                self._policy.put_back(name)

    def _in_use_no_more(self, name: str, obj: MemoryObj) -> None:
        names = self._in_use.get(id(obj))
        if names is not None:
            names.discard(name)
            if not names:
                del self._in_use[id(obj)]

    def _drop(self, name: str) -> None:
        cached = self._chunks.pop(name, None)
        if cached is None:
            return
        self._policy.remove(name)
        self._in_use_no_more(name, cached.obj)
        self._bytes -= cached.nbytes
        if cached.obj.is_valid():
            cached.obj.ref_count_down()
