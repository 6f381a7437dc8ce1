"""`may_touch_memory`: whether a thread that seems to stand still is amid something that touches an engine's memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Final

OURS: Final = ("lmcache_connect", "lmcache_reference_connectors")
"""How the modules begin whose code touches an engine's memory. Connectors of others that are not trusted get copies."""

_HELPERS: Final = frozenset({"ssl", "socket", "numpy", "torch"})
"""Packages that move bytes for the code that calls them, in frames of their own."""


def may_touch_memory(thread: int, trusted: Iterable[str] = ()) -> bool:
    """Whether the thread with this ident is in code that may read or write an engine's memory at this moment.

    `trusted` are packages of others whose connectors are given that memory itself.

    No thread runs Python code while this one does. So another one is where its innermost frame is: between two steps of
    that code, or in a system call for it. Behind the frames of helpers, the first frame tells whose code it is. A loop
    that waits for its sockets is in none of these, and neither is one that other code holds up.
    """
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        module: str = frame.f_globals.get("__name__") or ""
        package = module.partition(".")[0]
        if package not in _HELPERS:
            return module.startswith(OURS) or package in trusted
        frame = frame.f_back
    return False
