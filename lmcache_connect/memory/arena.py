"""`Arena`: one anonymous mapping, handed out in blocks."""

from __future__ import annotations

import ctypes
import mmap
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from ..process import this_process
from .allocator import BlockAllocator
from .finalizer_queue import FinalizerQueue
from .page_touch import touch_pages
from .warm_up import WarmUp


class _Block(weakref.ref[Any]):
    """A block that is handed out: watches its exporter. Every view, slice and array on the block keeps that alive."""

    __slots__ = ("size", "start")

    start: int
    size: int


class _ObjectEnded(NamedTuple):
    """The end of an object."""

    leaked: bool


_RELEASED: Final = _ObjectEnded(leaked=False)
_LEAKED: Final = _ObjectEnded(leaked=True)


class ArenaUsage(NamedTuple):
    """What is handed out at one moment, and what was. Sizes are bytes, the rest are counts."""

    free: int
    largest_free: int
    blocks: int
    """Blocks that are handed out."""
    allocations: int
    """Blocks that were ever handed out."""
    objects: int
    """Objects that have not ended, one for each allocation."""
    leaked: int
    """Objects that were garbage-collected without having been released."""
    warm: int
    """Bytes whose pages were touched ahead of their use, or handed out since."""


class Arena:
    """Memory in blocks of whole pages. Thread-safe.

    A block is free again when its exporter is gone, and every memoryview, slice or numpy array made from it keeps
    the exporter alive. So a block never goes to a second owner while anything can still write to it or read from it:
    not while a transfer is under way, and not while a caller has forgotten a view.
    """

    def __init__(
        self, capacity: int, on_room: Callable[[], None], *, prefault: bool = False, warm_ahead: int = 0
    ) -> None:
        """Maps `capacity` bytes, rounded down to whole pages.

        `on_room` is called after blocks came back: from any thread, and possibly from the garbage collector. `prefault`
        touches every page now. Otherwise a thread touches `warm_ahead` bytes ahead of those in use; 0: no thread.
        """
        self._allocator = BlockAllocator(capacity)
        self._on_room = on_room
        self._has_new_room = False
        self._lock = threading.Lock()
        self._process = this_process()
        self._blocks: dict[int, _Block] = {}  # those that are handed out, by start
        self._allocations = self._ended = self._leaked = 0
        # Each entry is a block that came back, or the end of an object.
        self._finalized: FinalizerQueue[_Block | _ObjectEnded] = FinalizerQueue(self._lock, self._handle_finalized)
        # Private: a forked child gets a copy, never a window into the parent's chunks.
        self._map = mmap.mmap(-1, self._allocator.capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # ctypes makes a class for every array length, and the lengths of chunks are not bounded in number. So each
        # exporter reaches over the whole mapping, and the view that is handed out is cut to size.
        self._exporter_type = ctypes.c_ubyte * self._allocator.capacity
        if hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._map.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without transparent huge pages: only the first touches are slower
        self._warm_up = WarmUp(self._map, self.capacity, warm_ahead)
        self._is_prefaulted = prefault
        if prefault:
            self._prefault()
        elif warm_ahead:
            self._warm_up.start()
            weakref.finalize(self, self._warm_up.stop).atexit = False  # the thread ends with the process

    def _prefault(self) -> None:
        if not touch_pages(self.address, self.capacity):
            with memoryview(self._map) as view:
                for start in range(0, len(view), mmap.PAGESIZE):
                    view[start] = 0

    def stop_warming(self) -> None:
        """Has no further pages touched, and waits for those that are being touched: some milliseconds."""
        self._warm_up.end()

    @property
    def capacity(self) -> int:
        """Bytes in all."""
        return self._allocator.capacity

    @property
    def address(self) -> int:
        """The address of the mapping's first byte."""
        return ctypes.addressof(ctypes.c_ubyte.from_buffer(self._map))

    def allocate(self, nbytes: int) -> memoryview | None:
        """Returns a writable view of exactly `nbytes` bytes, or None where no gap is large enough.

        Its contents are arbitrary. Each allocation is for one object, whose end is reported to `object_ended`.
        """
        self._process.check("the arena")
        size = BlockAllocator.rounded(nbytes)
        exporter = None
        with self._lock:
            self._finalized.handle_all()
            start = self._allocator.allocate(size)
            if start is not None:
                exporter = self._exporter_type.from_buffer(self._map)
                block = _Block(exporter, self._came_back)
                block.start, block.size = start, size
                self._blocks[start] = block
                self._allocations += 1
                self._warm_up.used(start, size)
        self._after_unlock()
        if exporter is None or start is None:
            return None
        return memoryview(exporter).cast("B")[start : start + nbytes]

    def object_ended(self, leaked: bool) -> None:
        """Counts the end of an object that had a block. May be called by a finalizer."""
        if not self._process.is_forked():
            self._finalized.append(_LEAKED if leaked else _RELEASED)

    def usage(self) -> ArenaUsage:
        """What is handed out now."""
        self._process.check("the arena")
        with self._lock:
            self._finalized.handle_all()
            usage = ArenaUsage(
                free=self._allocator.free_bytes,
                largest_free=self._allocator.largest_free,
                blocks=len(self._blocks),
                allocations=self._allocations,
                objects=self._allocations - self._ended,
                leaked=self._leaked,
                warm=self.capacity if self._is_prefaulted else self._warm_up.warm,
            )
        self._after_unlock()
        return usage

    def _came_back(self, block: _Block) -> None:
        # A finalizer: called when the block's exporter is gone.
        if self._process.is_forked():
            return  # the parent's lock may be held for ever here, and those who wait for room wait there
        self._finalized.append(block)
        self._after_unlock()

    def _after_unlock(self) -> None:
        self._finalized.handle_if_unlocked()
        if self._has_new_room:
            self._has_new_room = False  # before the call, so that room that appears during it is announced as well
            self._on_room()

    def _handle_finalized(self, entry: _Block | _ObjectEnded) -> None:
        if isinstance(entry, _Block):
            del self._blocks[entry.start]
            self._allocator.free(entry.start, entry.size)
            self._has_new_room = True
        else:
            self._ended += 1
            self._leaked += entry.leaked
