"""`HotCache`: chunks that stay in memory for as long as their room is not needed."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import BackendClosedError
from ..keys import Key, key_string
from ..process import ProcessLock
from .eviction import eviction_policy
from .memory_obj import MemoryObj


class HotCacheStatistics(NamedTuple):
    """What the cache holds, and how many chunks it gave up to make room."""

    chunks: int
    bytes: int
    evictions: int


class _Cached(NamedTuple):
    obj: MemoryObj
    nbytes: int  # when it came in: an object that is shrunk later must not unbalance the sum


class HotCache:
    """Chunks by key. The cache holds one reference on each. Thread-safe, and never waits for I/O.

    A chunk that somebody else holds or pins stays until it is removed by its key.
    """

    def __init__(self, eviction: str = "LRU") -> None:
        """`eviction` is LRU, LFU, FIFO or MRU.

        Raises:
            InvalidArgumentError: there is no such policy.
        """
        self.enabled = True
        """Whether it takes chunks. Switched off, it serves those that it has until they are evicted or removed."""
        self._policy = eviction_policy(eviction)
        self._chunks: dict[str, _Cached] = {}
        self._bytes = 0
        self._evictions = 0
        self._closed = False
        self._lock = ProcessLock("the hot cache")

    def put(self, key: Key, obj: MemoryObj) -> None:
        """Caches `obj`, with a reference of the cache's own.

        A chunk that is cached already under the key stays, which counts as a use. Takes nothing while switched off.

        Raises:
            ReleasedObjectError: `obj` was released.
            BackendClosedError: after `close()`.
        """
        name = key_string(key)
        with self._lock:
            if self._closed:
                raise BackendClosedError
            nbytes = obj.get_size()  # raises for a released object, whatever happens to it below
            if self._find(name) is not None:
                self._policy.hit(name)
            elif self.enabled:
                obj.ref_count_up()
                self._chunks[name] = _Cached(obj, nbytes)
                self._bytes += nbytes
                self._policy.insert(name)

    def get(self, key: Key) -> MemoryObj | None:
        """Returns the cached chunk with a reference for the caller, or None."""
        name = key_string(key)
        with self._lock:
            obj = self._find(name)
            if obj is not None:
                obj.ref_count_up()
                self._policy.hit(name)
            return obj

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

    def remove(self, key: Key, force: bool = True) -> bool:
        """Drops a chunk from the cache; other holders keep it. Without `force`, drops only one that may be evicted.

        Returns whether it was dropped.
        """
        with self._lock:
            name = key_string(key)
            obj = self._find(name)
            if obj is None or not (force or obj.can_evict()):
                return False
            self._drop(name)
            return True

    def clear(self, prefix: str = "") -> int:
        """Drops every chunk under `prefix` that nobody else holds or pins. Returns how many."""
        with self._lock:
            names = [
                name for name, cached in self._chunks.items() if name.startswith(prefix) and cached.obj.can_evict()
            ]
            for name in names:
                self._drop(name)
            return len(names)

    def keys(self) -> list[str]:
        """The keys of the cached chunks, as strings."""
        with self._lock:
            return list(self._chunks)

    def evict_one(self) -> bool:
        """Drops the chunk that the policy names first among those that nobody else holds or pins.

        Returns False where there was nothing to drop.
        """
        with self._lock:
            name = next((name for name in self._policy.candidates() if self._chunks[name].obj.can_evict()), None)
            if name is None:
                return False
            self._evictions += 1
            self._drop(name)
            return True

    def statistics(self) -> HotCacheStatistics:
        """What the cache holds now."""
        with self._lock:
            return HotCacheStatistics(len(self._chunks), self._bytes, self._evictions)

    def close(self) -> None:
        """Drops every chunk, and takes no more. Idempotent."""
        with self._lock:
            self._closed = True
            for name in list(self._chunks):
                self._drop(name)

    def _find(self, name: str) -> MemoryObj | None:
        cached = self._chunks.get(name)
        if cached is None:
            return None
        if cached.obj.is_valid():
            return cached.obj
        # A caller released one reference too many: the cache's own. The chunk is gone; the cache goes on.
        self._drop(name)
        return None

    def _drop(self, name: str) -> None:
        obj, nbytes = self._chunks.pop(name)
        self._policy.remove(name)
        self._bytes -= nbytes
        if obj.is_valid():
            obj.ref_count_down()
