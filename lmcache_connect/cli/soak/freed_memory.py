"""Has the C library return freed memory to the system, so that what stays is what somebody holds."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # glibc, malloc.h
_BYTES: Final = 128 << 10


def return_freed_memory() -> None:
    """Has blocks of 128 KiB and more returned when they are freed. Where the C library is not glibc, it does nothing.

    By itself glibc raises this bound up to 32 MiB, as large blocks are freed. The soak frees such blocks all the time,
    and a process that kept 200 MB of them would look as if it leaked.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
