"""`LocalCPUBackend`: the arena that chunks are received into, and the hot cache on top of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import (
    AllocationTimeoutError,
    ArenaExhaustedError,
    BackendClosedError,
    ForeignObjectError,
    InvalidArgumentError,
    MissingExtraError,
)
from ..keys import Key, key_string
from ..metadata import CacheMetadata, ChunkMetadata, MemoryFormat
from .arena import Arena
from .eviction import eviction_policy
from .memory_obj import MemoryObj


class ArenaStatistics(NamedTuple):
    """What the arena and its hot cache hold. Sizes are bytes, the rest are counts.

    `reserved` is the balance: it is 0 when every object was released and every view of one is gone.
    """

    capacity: int
    reserved: int
    free: int
    largest_free: int
    blocks: int
    live_objects: int
    cached_objects: int
    cached_bytes: int
    waiters: int
    allocations: int
    refusals: int
    evictions: int
    leaked_objects: int


class _Cached(NamedTuple):
    obj: MemoryObj
    nbytes: int  # when it came in: shrinking it later must not unbalance the sum


class _Waiter:
    __slots__ = ("future", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    def wake(self) -> bool:
        future = self.future
        try:
            self.loop.call_soon_threadsafe(_resolve, future)
        except RuntimeError:  # the waiter's loop was closed under it
            return False
        return self.loop.is_running()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class LocalCPUBackend:
    """Memory for chunks: one arena of `max_bytes`, and a hot cache of chunks in it. Thread-safe.

    Allocation evicts cached chunks that nobody holds or pins before it fails. It never sleeps and never blocks an
    event loop. The connector layer only borrows the backend; who made it closes it.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        metadata: CacheMetadata | None = None,
        eviction: str = "LRU",
        prefault: bool = False,
        pin_memory: bool = False,
    ) -> None:
        """Maps `max_bytes` (rounded down to whole pages of 4096 bytes).

        `eviction` is LRU, LFU, FIFO or MRU. `prefault` touches every page now rather than on first receipt.
        `pin_memory` registers the arena with CUDA through torch, for fast copies to the GPU.

        Raises:
            InvalidArgumentError: `max_bytes` is below one page, or the policy is unknown.
            MissingExtraError: `pin_memory` without torch.
        """
        if not isinstance(max_bytes, int) or max_bytes < Arena.rounded(1):
            raise InvalidArgumentError("max_bytes", f"{max_bytes!r} is not a number of at least 4096 bytes")
        self.metadata = metadata
        self._policy = eviction_policy(eviction)
        self._hot: dict[str, _Cached] = {}
        self._lock = threading.RLock()  # of the hot cache
        self._waiters: deque[_Waiter] = deque()
        self._closed = False
        self._live = self._allocations = self._refusals = self._evictions = self._leaked = 0
        self._deaths: deque[bool] = deque()  # of objects not counted yet; True for one that leaked
        self._cached_bytes = 0
        self._takes_chunks = True
        self._arena = Arena(max_bytes, self._room_appeared, prefault=prefault)
        self._pinned = pin_memory
        if pin_memory:
            _register_with_cuda(self._arena.address, self._arena.capacity)

    # ---------------------------------------------------------------------------------------------- allocation

    def allocate(
        self,
        shapes: Any,
        dtypes: Any,
        fmt: MemoryFormat | None = None,
        eviction: bool = True,
        busy_loop: bool = False,
    ) -> MemoryObj | None:
        """One object with one reference, or None where there is no room now. Its bytes are arbitrary.

        `shapes` and `dtypes` are one item each, or lists of equal length for several tensor groups; `fmt` defaults to
        what `ChunkMetadata.of` reads off the shapes. `eviction=False` leaves the hot cache alone. `busy_loop` is
        accepted for LMCache's sake and ignored: nothing here ever waits in a loop.

        Raises:
            InvalidShapeError, UnknownDtypeError: the chunk cannot be described.
            BackendClosedError: after `close()`.
        """
        return self.allocate_chunk(ChunkMetadata.of(shapes, dtypes, fmt), eviction)

    def allocate_chunk(self, metadata: ChunkMetadata, eviction: bool = True) -> MemoryObj | None:
        """`allocate` for a chunk that is described already."""
        if self._closed:
            raise BackendClosedError
        nbytes = metadata.nbytes
        view = self._arena.lease(nbytes)
        while view is None:
            if not eviction or nbytes > self._arena.capacity or not self._evict_one():
                with self._lock:
                    self._refusals += 1
                return None
            view = self._arena.lease(nbytes)
        with self._lock:
            self._count_deaths()
            self._live += 1
            self._allocations += 1
        return MemoryObj(view, metadata, self)

    async def allocate_async(
        self, shapes: Any, dtypes: Any, fmt: MemoryFormat | None = None, *, timeout: float | None = None
    ) -> MemoryObj:
        """One object with one reference, as soon as there is room; callers are served in their order.

        Raises:
            AllocationTimeoutError: no room within `timeout` seconds (None: no limit). Nothing is held then.
            ArenaExhaustedError: the arena as a whole is too small, so that waiting could never help.
        """
        return await self.allocate_chunk_async(ChunkMetadata.of(shapes, dtypes, fmt), timeout=timeout)

    async def allocate_chunk_async(self, metadata: ChunkMetadata, *, timeout: float | None = None) -> MemoryObj:
        """`allocate_async` for a chunk that is described already."""
        if metadata.nbytes > self._arena.capacity:
            raise ArenaExhaustedError(metadata.nbytes, self._arena.free_bytes, self._arena.capacity)
        self._forget_dead_waiters()
        if not self._waiters and (obj := self.allocate_chunk(metadata)) is not None:
            return obj
        started = time.monotonic()
        waiter = _Waiter(asyncio.get_running_loop())
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(timeout):
                while True:
                    # In this order, room that appears after the attempt resolves the future awaited below.
                    waiter.future = waiter.loop.create_future()
                    if waiter not in self._waiters:
                        self._waiters.append(waiter)  # its loop had stopped, and others went on without it
                    if self._waiters[0] is waiter and (obj := self.allocate_chunk(metadata)) is not None:
                        return obj
                    await waiter.future
        except TimeoutError:
            raise AllocationTimeoutError(
                metadata.nbytes, self._arena.free_bytes, self._arena.capacity, time.monotonic() - started
            ) from None
        finally:
            self._forget(waiter)
            self._room_appeared()  # the next in line may fit into what is left

    def batched_allocate(
        self,
        shapes: Any,
        dtypes: Any,
        batch_size: int,
        fmt: MemoryFormat | None = None,
        eviction: bool = True,
        busy_loop: bool = False,
    ) -> list[MemoryObj] | None:
        """`batch_size` objects of one kind, or None and nothing at all where not every one has room."""
        if batch_size < 1:
            raise InvalidArgumentError("batch_size", f"{batch_size} is below 1")
        metadata = ChunkMetadata.of(shapes, dtypes, fmt)
        if batch_size * Arena.rounded(metadata.nbytes) > self._arena.capacity:
            return None  # and no cached chunk was evicted for it in vain
        objs: list[MemoryObj] = []
        for _ in range(batch_size):
            obj = self.allocate_chunk(metadata, eviction)
            if obj is None:
                for taken in objs:
                    taken.ref_count_down()
                return None
            objs.append(obj)
        return objs

    def _room_appeared(self) -> None:
        # Called from any thread, and from the garbage collector: only wakes, never allocates.
        while self._waiters:
            try:
                first = self._waiters[0]
            except IndexError:
                return
            if first.wake():
                return
            self._forget(first)

    def _forget(self, waiter: _Waiter) -> None:
        try:
            self._waiters.remove(waiter)
        except ValueError:
            pass  # its loop was closed, and somebody else has found that out already

    def _forget_dead_waiters(self) -> None:
        # Nobody would ever let the ones behind it pass: a waiter leaves by itself only while its loop runs.
        for waiter in list(self._waiters):
            if not waiter.loop.is_running():
                self._forget(waiter)

    def object_released(self, obj: MemoryObj, leaked: bool) -> None:
        """Called by an object when it dies."""
        # Possibly by the garbage collector, inside a locked section of this or another object: only queues.
        self._deaths.append(leaked)

    def object_let_go(self, obj: MemoryObj) -> None:
        """Called by an object when a reference or a pin was given back: if it is cached, it may make room now."""
        if self._waiters:
            self._room_appeared()

    def _count_deaths(self) -> None:
        while self._deaths:
            self._live -= 1
            self._leaked += self._deaths.popleft()

    def owns(self, obj: object) -> bool:
        """Whether `obj` is a memory object of this backend."""
        return isinstance(obj, MemoryObj) and obj.belongs_to(self)

    def get_full_chunk_size_bytes(self) -> int:
        """Bytes of a full chunk of the model in `metadata`.

        Raises:
            InvalidArgumentError: the backend was made without `metadata`.
        """
        if self.metadata is None:
            raise InvalidArgumentError("metadata", "the backend was made without it, so it knows no full chunk")
        return self.metadata.full_chunk_bytes

    # ----------------------------------------------------------------------------------------------- hot cache

    @property
    def hot_cache_enabled(self) -> bool:
        """Whether the cache takes chunks. Switched off, it serves those it has until they are evicted or cleared."""
        return self._takes_chunks

    @hot_cache_enabled.setter
    def hot_cache_enabled(self, on: bool) -> None:
        self._takes_chunks = on

    def submit_put_task(self, key: Key, obj: MemoryObj) -> None:
        """Caches `obj`, with a reference of the cache's own. A chunk that is cached already stays and is touched.

        Does nothing while the cache is switched off (`hot_cache_enabled`).

        Raises:
            ForeignObjectError: `obj` is not of this backend.
            ReleasedObjectError: `obj` was released.
            BackendClosedError: after `close()`.
        """
        if not self.owns(obj):
            raise ForeignObjectError(_kind(obj), "a MemoryObj allocated by this LocalCPUBackend")
        name = key_string(key)
        with self._lock:
            if self._closed:
                raise BackendClosedError
            if self._cached(name) is not None:
                obj.get_size()  # raises for a released one
                self._policy.hit(name)
                return
            if not self._takes_chunks:
                obj.get_size()
                return
            obj.ref_count_up()
            self._hot[name] = _Cached(obj, obj.get_size())
            self._cached_bytes += obj.get_size()
            self._policy.insert(name)

    def batched_submit_put_task(self, keys: Sequence[Key], objs: Sequence[MemoryObj]) -> None:
        """`submit_put_task` for each pair."""
        if len(keys) != len(objs):
            raise InvalidArgumentError("objs", f"{len(objs)} objects for {len(keys)} keys")
        for key, obj in zip(keys, objs, strict=True):
            self.submit_put_task(key, obj)

    def get_blocking(self, key: Key) -> MemoryObj | None:
        """The cached chunk with a reference for the caller, or None. Never waits."""
        name = key_string(key)
        with self._lock:
            obj = self._cached(name)
            if obj is not None:
                obj.ref_count_up()
                self._policy.hit(name)
            return obj

    def contains(self, key: Key, pin: bool = False) -> bool:
        """Whether the chunk is cached; `pin` pins it in the same step."""
        with self._lock:
            obj = self._cached(key_string(key))
            if obj is not None and pin:
                obj.pin()
            return obj is not None

    def pin(self, key: Key) -> bool:
        """Keeps a cached chunk from eviction. False where it is not cached."""
        return self.contains(key, pin=True)

    def unpin(self, key: Key) -> bool:
        """Takes one pin back. False where the chunk is not cached or not pinned."""
        with self._lock:
            obj = self._cached(key_string(key))
            return obj is not None and obj.unpin()

    def remove(self, key: Key, force: bool = True) -> bool:
        """Drops a chunk from the cache; other holders keep it. Without `force` only one that may be evicted.

        Returns whether it was dropped.
        """
        with self._lock:
            name = key_string(key)
            obj = self._cached(name)
            if obj is None or not (force or obj.can_evict()):
                return False
            self._drop(name)
            return True

    def clear(self, prefix: str = "") -> int:
        """Drops every cached chunk under `prefix` that nobody else holds or pins; returns how many."""
        with self._lock:
            names = [name for name, cached in self._hot.items() if name.startswith(prefix) and cached.obj.can_evict()]
            for name in names:
                self._drop(name)
            return len(names)

    def get_keys(self) -> list[str]:
        """The keys in the cache."""
        with self._lock:
            return list(self._hot)

    def _evict_one(self) -> bool:
        with self._lock:
            name = next((name for name in self._policy.candidates() if self._hot[name].obj.can_evict()), None)
            if name is None:
                return False
            self._evictions += 1
            self._drop(name)
            return True

    def _cached(self, name: str) -> MemoryObj | None:
        cached = self._hot.get(name)
        if cached is None or cached.obj.is_valid():
            return cached.obj if cached is not None else None
        # Somebody gave back one reference too many, the cache's own. The chunk is gone; the cache goes on.
        self._drop(name)
        return None

    def _drop(self, name: str) -> None:
        obj, nbytes = self._hot.pop(name)
        self._policy.remove(name)
        self._cached_bytes -= nbytes
        if obj.is_valid():
            obj.ref_count_down()

    # ------------------------------------------------------------------------------------------------ lifetime

    def statistics(self) -> ArenaStatistics:
        """What the arena and the cache hold now."""
        # Asked before the cache is locked: the arena's lock is never waited for inside ours.
        free, largest_free, blocks = self._arena.free_bytes, self._arena.largest_free, self._arena.blocks
        with self._lock:
            self._count_deaths()
            return ArenaStatistics(
                capacity=self._arena.capacity,
                reserved=self._arena.capacity - free,
                free=free,
                largest_free=largest_free,
                blocks=blocks,
                live_objects=self._live,
                cached_objects=len(self._hot),
                cached_bytes=self._cached_bytes,
                waiters=len(self._waiters),
                allocations=self._allocations,
                refusals=self._refusals,
                evictions=self._evictions,
                leaked_objects=self._leaked,
            )

    def close(self) -> None:
        """Empties the cache and refuses further allocations. Idempotent; objects that are held stay readable."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for name in list(self._hot):
                self._drop(name)
        self._room_appeared()  # who waits for room learns that there will be none
        if self._pinned:
            _unregister_with_cuda(self._arena.address)

    def __enter__(self) -> LocalCPUBackend:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<LocalCPUBackend {now.reserved} of {now.capacity} bytes reserved, {now.live_objects} objects>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.get_keys())


def _kind(obj: object) -> str:
    if isinstance(obj, MemoryObj):
        return "a MemoryObj of another backend" if obj.is_valid() else "a released MemoryObj"
    return f"a {type(obj).__module__}.{type(obj).__qualname__}"


def _register_with_cuda(address: int, nbytes: int) -> None:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("LocalCPUBackend(pin_memory=True)", "torch", "torch") from None
    if not torch.cuda.is_available():
        raise InvalidArgumentError("pin_memory", "torch finds no CUDA device to pin memory for")
    code = int(torch.cuda.cudart().cudaHostRegister(address, nbytes, 0))
    if code != 0:
        raise InvalidArgumentError("pin_memory", f"cudaHostRegister answered {code}")


def _unregister_with_cuda(address: int) -> None:
    import torch

    torch.cuda.cudart().cudaHostUnregister(address)
