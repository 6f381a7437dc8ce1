"""`ExportedMemory`: which of an engine's objects can be touched here, because a view of them is left."""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from typing import Any, Protocol


class EngineObject(Protocol):
    """A memory object of the engine."""

    @property
    def byte_array(self) -> Any:
        """A writable buffer."""
        ...

    def ref_count_up(self) -> Any: ...

    def ref_count_down(self) -> Any: ...


class _Exported(weakref.ref[Any]):
    """Memory of the engine's that can be touched here: watches the exporter, which every view of it keeps alive."""

    __slots__ = ("theirs",)

    theirs: EngineObject | None
    """The engine's object that a reference is held on; None for one that was borrowed."""


class ExportedMemory:
    """What of the engine's memory can be touched here. Thread-safe."""

    def __init__(self) -> None:
        # By id: an exporter cannot be hashed, and so what watches it cannot be, either.
        self._exported: dict[int, _Exported] = {}
        # Appended to by finalizers, which may run in any thread while that holds a lock of the engine's.
        self._gone: deque[_Exported] = deque()

    def export(self, theirs: EngineObject, nbytes: int, *, holds_reference: bool) -> memoryview:
        """Returns a view of the object's first `nbytes` bytes. The reference on it ends with the last view of them."""
        source = memoryview(theirs.byte_array).cast("B")[:nbytes]
        # ctypes makes a class for every array length, and the lengths of chunks are not bounded in number. So the
        # exporter's length is a power of two, and the view that is handed out is cut to size.
        kind = ctypes.c_ubyte * (1 << (nbytes - 1).bit_length())
        exporter: Any = kind.from_address(ctypes.addressof(ctypes.c_ubyte.from_buffer(source)))
        exporter.source = source
        exported = _Exported(exporter, self._gone.append)
        exported.theirs = theirs if holds_reference else None
        self._exported[id(exported)] = exported
        return memoryview(exporter).cast("B")[:nbytes]

    def reclaim(self) -> None:
        """Releases the references on objects that cannot be touched here any more. Not to be called by a finalizer."""
        while self._gone:
            try:
                exported = self._gone.popleft()
            except IndexError:
                return  # another thread has done it
            del self._exported[id(exported)]
            if exported.theirs is not None:
                exported.theirs.ref_count_down()

    def __len__(self) -> int:
        self.reclaim()
        return len(self._exported)
