"""`Arena`: one anonymous mapping, handed out in blocks. A block that is handed out is a lease."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .allocator import BlockAllocator
from .finalizer_queue import FinalizerQueue

_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; the mmap module has no name for it


class _Lease(weakref.ref[Any]):
    """Watches the exporter of one block. Every view, slice and array on the block keeps the exporter alive."""

    __slots__ = ("size", "start")

    start: int
    size: int


class ArenaUsage(NamedTuple):
    """What is handed out at one moment, and what was. Sizes are bytes, the rest are counts."""

    free: int
    largest_free: int
    blocks: int
    leases: int
    """All that were ever handed out."""
    objects: int
    """Objects that have not ended, one for each lease."""
    leaked: int
    """Objects that were garbage-collected without having been released."""


class Arena:
    """Memory in blocks of whole pages. Thread-safe.

    A block is free again when its exporter is gone, and every memoryview, slice or numpy array made from it keeps
    the exporter alive. So a block never goes to a second owner while anything can still write to it or read from it:
    not while a transfer is under way, and not while a caller has forgotten a view.
    """

    def __init__(self, capacity: int, on_room: Callable[[], None], *, prefault: bool = False) -> None:
        """Maps `capacity` bytes, rounded down to whole pages.

        `on_room` is called after blocks came back: from any thread, and possibly from the garbage collector.
        """
        self._blocks = BlockAllocator(capacity)
        self._on_room = on_room
        self._has_new_room = False
        self._lock = threading.Lock()
        self._leases: dict[int, _Lease] = {}  # by start
        self._made = self._ended = self._leaked = 0
        # Each entry is a lease whose block came back, or the end of an object: True for one that leaked.
        self._finalized: FinalizerQueue[_Lease | bool] = FinalizerQueue(self._lock, self._handle_finalized)
        # Private: a forked child gets a copy, never a window into the parent's chunks.
        self._map = mmap.mmap(-1, self._blocks.capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # ctypes makes a class for every array length, and the lengths of chunks are not bounded in number. So each
        # exporter reaches over the whole mapping, and the view that is handed out is cut to size.
        self._exporter_type = ctypes.c_ubyte * self._blocks.capacity
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages: only the first touches are slower
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
    def address(self) -> int:
        """The address of the mapping's first byte."""
        return ctypes.addressof(ctypes.c_ubyte.from_buffer(self._map))

    def lease(self, nbytes: int) -> memoryview | None:
        """Returns a writable view of exactly `nbytes` bytes, or None where no gap is large enough.

        Its contents are arbitrary. Each lease is for one object, whose end is reported to `object_ended`.
        """
        size = BlockAllocator.rounded(nbytes)
        exporter = None
        with self._lock:
            self._finalized.handle_all()
            start = self._blocks.allocate(size)
            if start is not None:
                exporter = self._exporter_type.from_buffer(self._map)
                lease = _Lease(exporter, self._came_back)
                lease.start, lease.size = start, size
                self._leases[start] = lease
                self._made += 1
        self._after_unlock()
        if exporter is None or start is None:
            return None
        return memoryview(exporter).cast("B")[start : start + nbytes]

    def object_ended(self, leaked: bool) -> None:
        """Counts the end of an object that had a lease. May be called by a finalizer."""
        self._finalized.append(leaked)

    def usage(self) -> ArenaUsage:
        """What is handed out now."""
        with self._lock:
            self._finalized.handle_all()
            usage = ArenaUsage(
                free=self._blocks.free_bytes,
                largest_free=self._blocks.largest_free,
                blocks=len(self._leases),
                leases=self._made,
                objects=self._made - self._ended,
                leaked=self._leaked,
            )
        self._after_unlock()
        return usage

    def _came_back(self, lease: _Lease) -> None:
        # A finalizer: called when the exporter of the lease's block is gone.
        self._finalized.append(lease)
        self._after_unlock()

    def _after_unlock(self) -> None:
        self._finalized.handle_if_unlocked()
        if self._has_new_room:
            self._has_new_room = False  # before the call, so that room that appears during it is announced as well
            self._on_room()

    def _handle_finalized(self, entry: _Lease | bool) -> None:
        if isinstance(entry, _Lease):
            del self._leases[entry.start]
            self._blocks.free(entry.start, entry.size)
            self._has_new_room = True
        else:
            self._ended += 1
            self._leaked += entry
