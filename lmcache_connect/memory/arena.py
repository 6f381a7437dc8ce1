"""One anonymous mapping, leased out in blocks that come back when the last view of them is gone."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .allocator import BlockAllocator

_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; the mmap module has no name for it


class _Lease(weakref.ref[Any]):
    """Watches the exporter of one block; every view, slice and array on the block keeps the exporter alive."""

    __slots__ = ("size", "start")

    start: int
    size: int


class Arena:
    """Memory in blocks of whole pages. Thread-safe.

    A block is free again when its exporter is gone, and every memoryview, slice or numpy array made from it keeps
    it alive. So a block never goes to a second owner while anything can still write to it or read from it: not
    a transport in the middle of a transfer, not a view that a caller forgot.
    """

    def __init__(self, capacity: int, on_room: Callable[[], None], *, prefault: bool = False) -> None:
        """Maps `capacity` bytes, rounded down to whole pages. `on_room` is called, from any thread and possibly
        from the garbage collector, after blocks came back."""
        self._blocks = BlockAllocator(capacity)
        self._on_room = on_room
        self._lock = threading.Lock()
        self._leases: dict[int, _Lease] = {}  # by start
        # Exporters die in any thread at any time, also inside our own locked sections when the garbage
        # collector runs there. So the callback only queues; whoever gets the lock next frees.
        self._returned: deque[_Lease] = deque()
        # Private: a forked child gets a copy, never a window into the parent's chunks.
        self._map = mmap.mmap(-1, self._blocks.capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # ctypes makes a class for every array length, and what stores send has any length. So each exporter reaches
        # over the whole mapping, and the view that is handed out is cut to size.
        self._exporter_type = ctypes.c_ubyte * self._blocks.capacity
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages: slower first touches, nothing else
        if prefault:
            self._prefault()

    def _prefault(self) -> None:
        try:
            self._map.madvise(_MADV_POPULATE_WRITE)
        except (OSError, ValueError):
            with memoryview(self._map) as view:
                for start in range(0, len(view), mmap.PAGESIZE):
                    view[start] = 0

    @property
    def capacity(self) -> int:
        """Bytes in all."""
        return self._blocks.capacity

    @property
    def free_bytes(self) -> int:
        """Bytes that are in no block."""
        self._settle()
        return self._blocks.free_bytes

    @property
    def largest_free(self) -> int:
        """Bytes of the largest block that could be leased now."""
        with self._lock:
            room = self._reclaim()
            largest = self._blocks.largest_free
        self._settle(room)
        return largest

    @property
    def blocks(self) -> int:
        """Blocks leased out now."""
        self._settle()
        return len(self._leases)

    @property
    def address(self) -> int:
        """The address of the mapping's first byte."""
        return ctypes.addressof(ctypes.c_ubyte.from_buffer(self._map))

    @staticmethod
    def rounded(nbytes: int) -> int:
        """The size of the block that holds `nbytes`."""
        return BlockAllocator.rounded(nbytes)

    def lease(self, nbytes: int) -> memoryview | None:
        """A writable view of exactly `nbytes` bytes, or None where no gap is large enough. Contents are arbitrary."""
        size = BlockAllocator.rounded(nbytes)
        with self._lock:
            room = self._reclaim()
            start = self._blocks.allocate(size)
            exporter = None
            if start is not None:
                exporter = self._exporter_type.from_buffer(self._map)
                lease = _Lease(exporter, self._came_back)
                lease.start, lease.size = start, size
                self._leases[start] = lease
        self._settle(room)
        if exporter is None or start is None:
            return None
        return memoryview(exporter).cast("B")[start : start + nbytes]

    def _came_back(self, lease: _Lease) -> None:
        self._returned.append(lease)
        self._settle()

    def _settle(self, room: bool = False) -> None:
        # Whoever holds the lock calls this after letting go, so nothing stays queued when we do not get it. `room`:
        # blocks came back while the lock was held, of which nobody has been told yet.
        while self._returned and self._lock.acquire(blocking=False):
            try:
                room = self._reclaim() or room
            finally:
                self._lock.release()
        if room:
            self._on_room()

    def _reclaim(self) -> bool:
        freed = False
        while self._returned:
            lease = self._returned.popleft()
            del self._leases[lease.start]
            self._blocks.free(lease.start, lease.size)
            freed = True
        return freed
