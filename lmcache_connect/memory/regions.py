"""`Regions`: the memory of one chunk that a caller owns, as one or several regions."""

from __future__ import annotations

import ctypes
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Any, Final, SupportsIndex

from ..errors import InvalidArgumentError, ReleasedObjectError
from ..lease import check_leases
from ..metadata import MAX_CHUNK_BYTES

_ADDRESS_LIMIT: Final = 1 << (8 * ctypes.sizeof(ctypes.c_void_p))
_WRITABLE: Final = 0x200  # PyBUF_WRITE
_EMPTY: Final = memoryview(b"")
_FIELD_NAMES: Final = re.compile(":[^:]*:")
"""The names of fields, in a buffer's format."""


class Regions:
    """One chunk's memory that a caller owns: the bytes of one or several regions, one after the other.

    Made by `regions_of`, which checks it once. Its buffers never change, until `release` ends it. It owns nothing: it
    keeps the buffers from being resized or closed for as long as it, or a view that it gave, exists.

    Attributes:
        nbytes: the bytes of all regions together, at least 1.
        is_writable: whether every region may be written to.
        is_filled: whether the last call that received into them, and failed or was cancelled, had filled and verified
            them before. A connector may leave it False. `write`, and every call that is given them to receive into,
            ends it.
    """

    __slots__ = ("_ends", "_views", "is_filled", "is_writable", "nbytes")

    def __init__(self, views: Sequence[memoryview]) -> None:
        """`views` are one-dimensional, of bytes, and none of them is empty."""
        self._views: tuple[memoryview, ...] | None = tuple(views)
        self._ends: Final = tuple(accumulate(map(len, views)))
        self.nbytes: Final = self._ends[-1]
        self.is_writable: Final = not any(view.readonly for view in views)
        self.is_filled = False

    @property
    def views(self) -> list[memoryview]:
        """A new view of each region, in order. Regions of no bytes are left out.

        Raises:
            ReleasedObjectError: after `release`, or where a lease of this context was recalled (`lease.py`).
        """
        return [view[:] for view in self._live()]

    def views_of(self, start: int, end: int) -> list[memoryview]:
        """New views of the bytes from `start` to `end`, in order: one for each region that has some of them.

        Raises:
            InvalidArgumentError: the bytes are not within these regions.
            ReleasedObjectError: as for `views`.
        """
        views = self._live()
        if not 0 <= start <= end <= self.nbytes:
            raise InvalidArgumentError("start", f"bytes {start} to {end} of {self.nbytes}")
        if len(views) == 1:
            return [views[0][start:end]] if start < end else []
        first = bisect_right(self._ends, start)
        last = bisect_left(self._ends, end, first)
        found = [view[:] for view in views[first : last + 1]] if start < end else []
        if found:
            found[-1] = found[-1][: len(found[-1]) - (self._ends[last] - end)]
            found[0] = found[0][start - (self._ends[first] - len(views[first])) :]
        return found

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Copies `data` into the regions, from byte `start`. Raises what `views_of` raises."""
        self.is_filled = False
        position = 0
        for view in self.views_of(start, start + len(data)):
            view[:] = data[position : position + len(view)]
            position += len(view)

    def read(self, start: int, target: memoryview) -> None:
        """Copies bytes of the regions, from byte `start`, into all of `target`. Raises what `views_of` raises."""
        position = 0
        for view in self.views_of(start, start + len(target)):
            target[position : position + len(view)] = view
            position += len(view)

    def spans(self) -> list[tuple[int, int]]:
        """The first address and the address behind the last byte of each region. They must be writable."""
        starts = [ctypes.addressof(ctypes.c_char.from_buffer(view)) for view in self._live()]
        return [(start, start + len(view)) for start, view in zip(starts, self._live(), strict=True)]

    def release(self) -> None:
        """Lets go of the caller's buffers, except where views that were given still exist. Idempotent.

        Further uses raise `ReleasedObjectError`.
        """
        views, self._views = self._views, None
        for view in views or ():
            try:
                view.release()
            except BufferError:
                pass  # something reads through this very view, and releases it

    def _live(self) -> tuple[memoryview, ...]:
        check_leases("memory of a caller")
        if self._views is None:
            raise ReleasedObjectError("memory of a caller")
        return self._views

    def __len__(self) -> int:
        return self.nbytes

    def __repr__(self) -> str:
        if self._views is None:
            return f"<Regions of {self.nbytes} bytes, released>"
        return f"<Regions of {self.nbytes} bytes, {len(self._views)} regions>"


def regions_of(buffers: Any, *, writable: bool) -> Regions:
    """The memory of one chunk, checked: `buffers` is one buffer, or a sequence of buffers that follow one another.

    A buffer is anything with the buffer protocol: memoryview, bytearray, mmap, a numpy array, a ctypes array. For an
    address and a length see `memory_at`. A tensor of torch on the CPU serves as `tensor.view(torch.uint8).numpy()`.
    Regions of no bytes are allowed beside others. `Regions` are returned as they are.

    Raises:
        InvalidArgumentError: something is not a buffer, a released memoryview, not contiguous, read-only though
            `writable` is asked for, or holds Python objects; or all together have no bytes, or more than
            `MAX_CHUNK_BYTES`.
        ReleasedObjectError: `buffers` are regions that were released.
    """
    if isinstance(buffers, Regions):
        buffers._live()
        if writable and not buffers.is_writable:
            raise InvalidArgumentError("buffers", _READ_ONLY)
        return buffers
    if (whole := _exported(buffers)) is not None:
        parts = [_checked(whole, "the buffer", writable)]
    elif isinstance(buffers, Iterable) and not isinstance(buffers, str | memoryview):
        parts = [_region(part, index, writable) for index, part in enumerate(buffers)]
    else:
        raise InvalidArgumentError("buffers", _no_buffer("the buffer", buffers))
    views = [part for part in parts if len(part)]
    nbytes = sum(map(len, views))
    if not 0 < nbytes <= MAX_CHUNK_BYTES:
        raise InvalidArgumentError("buffers", f"{nbytes} bytes in all; a chunk has 1 to {MAX_CHUNK_BYTES}")
    return Regions(views)


def memory_at(address: SupportsIndex, nbytes: SupportsIndex) -> memoryview:
    """A writable view of the `nbytes` bytes at `address` of this process: for memory that only a pointer names.

    Nothing is checked and nothing is kept alive. Where the memory is unmapped, freed or used for something else before
    every call that was given the view has ended, the process crashes or overwrites foreign data. Pass memory of the CPU
    only, and hold its owner until then.

    Raises:
        InvalidArgumentError: `address` or `nbytes` is not a whole number, `address` is 0 or negative, `nbytes` is
            negative or above `MAX_CHUNK_BYTES`, or the memory would end behind the address space.
    """
    try:
        start, size = operator.index(address), operator.index(nbytes)
    except TypeError:
        wrong = f"{address!r} and {nbytes!r}; expected an address and a number of bytes, both whole numbers"
        raise InvalidArgumentError("address", wrong) from None
    if not 0 <= size <= MAX_CHUNK_BYTES:
        raise InvalidArgumentError("nbytes", f"{size}; expected 0 to {MAX_CHUNK_BYTES} bytes")
    if not 0 < start <= _ADDRESS_LIMIT - size:
        raise InvalidArgumentError("address", f"{size} bytes at {start:#x} are not within this process's addresses")
    return _viewer()(start, size, _WRITABLE)


def check_apart(chunks: Sequence[Regions]) -> None:
    """Checks that no byte belongs to two of the regions into which one call receives.

    What they hold afterwards would be a mixture, which nobody could tell from a chunk.

    Raises:
        InvalidArgumentError: two regions overlap.
    """
    spans = sorted([span for regions in chunks for span in regions.spans()])
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            raise InvalidArgumentError(
                "buffers", f"two regions share {end - start} bytes; each byte that is received into belongs to one key"
            )


_READ_ONLY: Final = "it is read-only, and the chunk would be received into it; pass a writable buffer"


def _region(part: Any, index: int, writable: bool) -> memoryview:
    try:
        is_plain = type(part) is memoryview and part.format == "B" and part.ndim == 1 and part.contiguous
    except ValueError:  # it was released, which is told below
        is_plain = False
    if is_plain:
        return _checked(part[:], f"region {index}", writable) if writable and part.readonly else part[:]
    if (view := _exported(part)) is None:
        raise InvalidArgumentError("buffers", _no_buffer(f"region {index}", part))
    return _checked(view, f"region {index}", writable)


def _exported(buffer: Any) -> memoryview | None:
    try:
        return memoryview(buffer)
    except (TypeError, ValueError, BufferError):  # numpy has ValueError for its dates
        return None


def _checked(view: memoryview, what: str, writable: bool) -> memoryview:
    if writable and view.readonly:
        raise InvalidArgumentError("buffers", f"{what}: {_READ_ONLY}")
    if not view.c_contiguous:
        raise InvalidArgumentError(
            "buffers", f"{what} is not contiguous (shape {view.shape}, strides {view.strides}); pass its parts instead"
        )
    if "O" in view.format and "O" in _FIELD_NAMES.sub("", view.format):
        raise InvalidArgumentError(
            "buffers", f"{what} holds Python objects (format {view.format!r}), whose bytes are addresses; pass numbers"
        )
    return view.cast("B") if view.nbytes else _EMPTY  # a view with a dimension of 0 cannot be cast


def _no_buffer(what: str, value: object) -> str:
    if isinstance(value, memoryview):
        return f"{what} is a memoryview that was released; pass one that still shows memory"
    hint = "; of a tensor on the CPU pass tensor.view(torch.uint8).numpy()" if hasattr(value, "data_ptr") else ""
    return (
        f"{what} is a {type(value).__qualname__}; expected memory with the buffer protocol, or a sequence of such{hint}"
    )


@cache
def _viewer() -> Callable[[int, int, int], memoryview]:
    # Not a ctypes array: its class is made for every length, and kept.
    kind = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
    return kind(("PyMemoryView_FromMemory", ctypes.pythonapi))
