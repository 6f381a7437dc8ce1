"""`touch_pages`: has the kernel make the pages of a mapping, which the first write to each would do otherwise."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14; the mmap module has no name for it


def touch_pages(address: int, nbytes: int) -> bool:
    """Makes the pages from `address` on. Their contents stay, also where somebody writes to them meanwhile.

    Both are multiples of the page size. Other threads run meanwhile: `mmap.madvise` would hold Python's lock, and a
    call through ctypes does not. Returns False where the system cannot do this, or has no memory left.
    """
    return _madvise is not None and _madvise(address, nbytes, _MADV_POPULATE_WRITE) == 0


def _madvise_of_the_system() -> ctypes._NamedFuncPointer | None:
    if not sys.platform.startswith("linux"):
        return None  # the number means something else there
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


_madvise: Final = _madvise_of_the_system()
