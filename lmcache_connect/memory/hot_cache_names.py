"""`HotCacheNames`: a memory's hot cache under the names of LMCache's `LocalCPUBackend`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from ..errors import ForeignObjectError, InvalidArgumentError
from ..keys import Key, check_batch
from .hot_cache import HotCache
from .memory_obj import MemoryObj


class HotCacheNames(ABC):
    """What connectors and engines that were written for LMCache call on a memory. See `HotCache` for what it does.

    A `ManagedConnector` drops a key from the cache of its memory when the key is put again or removed.
    """

    @property
    @abstractmethod
    def hot_cache(self) -> HotCache:
        """The cache of chunks in this memory."""

    @abstractmethod
    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of this memory."""

    @property
    def hot_cache_enabled(self) -> bool:
        """Whether the cache takes chunks. Switched off, it serves those it has until they are evicted or cleared."""
        return self.hot_cache.enabled

    @hot_cache_enabled.setter
    def hot_cache_enabled(self, on: bool) -> None:
        self.hot_cache.enabled = on

    def submit_put_task(self, key: Key, obj: MemoryObj) -> None:
        """Caches `obj` in place of what is cached under the key. See `HotCache.put`.

        Raises:
            ForeignObjectError: `obj` is not of this backend.
            ReleasedObjectError: `obj` was released.
            BackendClosedError: after `close()`.
        """
        if not self.owns(obj):
            raise ForeignObjectError(_kind(obj), "a MemoryObj allocated by this LocalCPUBackend")
        self.hot_cache.put(key, obj)

    def batched_submit_put_task(self, keys: Sequence[Key], objs: Sequence[MemoryObj]) -> None:
        """`submit_put_task` for each pair.

        Raises:
            InvalidArgumentError: `keys` is one key, or there are not as many objects as keys.
            What `submit_put_task` raises.
        """
        check_batch(keys)
        if len(keys) != len(objs):
            raise InvalidArgumentError("objs", f"{len(objs)} objects for {len(keys)} keys")
        for key, obj in zip(keys, objs, strict=True):
            self.submit_put_task(key, obj)

    def get_blocking(self, key: Key) -> MemoryObj | None:
        """Returns a read-only object for the cached chunk, with a reference for the caller, or None. Never waits."""
        return self.hot_cache.get(key)

    def contains(self, key: Key, pin: bool = False) -> bool:
        """Returns whether the chunk is cached. `pin` pins it in the same step."""
        return self.hot_cache.contains(key, pin)

    def pin(self, key: Key) -> bool:
        """Keeps a cached chunk from eviction. Returns False where it is not cached."""
        return self.hot_cache.contains(key, pin=True)

    def unpin(self, key: Key) -> bool:
        """Releases one pin. Returns False where the chunk is not cached or not pinned."""
        return self.hot_cache.unpin(key)

    def remove(self, key: Key, force: bool = True) -> bool:
        """Drops a chunk from the cache. Returns whether it was dropped. See `HotCache.remove`."""
        return self.hot_cache.remove(key, force)

    def clear(self, prefix: str = "") -> int:
        """Drops every cached chunk under `prefix` that is not pinned; other holders keep theirs. Returns how many."""
        return self.hot_cache.clear(prefix)

    def get_keys(self) -> list[str]:
        """The keys in the cache."""
        return self.hot_cache.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.get_keys())


def _kind(obj: object) -> str:
    if isinstance(obj, MemoryObj):
        return "a MemoryObj of another backend" if obj.is_valid() else "a released MemoryObj"
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"
