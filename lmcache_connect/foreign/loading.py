"""`Loading`: the import of a plug-in's module that is under way, and what it waits for."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from ..outside import OutsideCall

_LOOK_AFTER: Final = 0.25
"""Seconds after which an import that has not ended is looked at. Most take less, and looking stops every thread."""


class CircularImportError(Exception):
    """The import waits for a module whose own import waits for it."""


class Loading:
    """One import in a thread. Any number of threads may wait for it."""

    def __init__(self, module: str, call: OutsideCall[Any]) -> None:
        self._module = module
        self._call = call

    @property
    def is_done(self) -> bool:
        """Whether the import has ended."""
        return self._call.future.done()

    def wait(self, timeout: float) -> Any:
        """What the import gave, after `timeout` seconds at most.

        Raises:
            TimeoutError: it has not ended.
            CircularImportError: it waits for a module that the calling thread imports, and so will not end.
            What the import raised.
        """
        ends = time.monotonic() + timeout
        while (left := ends - time.monotonic()) > _LOOK_AFTER:
            try:
                return self._call.future.result(_LOOK_AFTER)
            except TimeoutError:
                if self.is_done:
                    raise
            wanted = self._wanted()
            if wanted is not None and wanted in _imported_by(threading.get_ident()):
                raise CircularImportError(
                    f"it imports {wanted}, which is being imported and waits here for {self._module}; "
                    f"make the connector after {wanted} was imported, or do not import it from {self._module}"
                )
        return self._call.future.result(max(left, 0))

    def waits_for(self) -> str:
        """What keeps the import from its end, as the end of a sentence; "" where that is not known."""
        wanted = self._wanted()
        if wanted is None:
            return ""
        importers = [thread.name for thread in threading.enumerate() if wanted in _imported_by(thread.ident)]
        return f"; it waits for {wanted}, which the thread {importers[0]} is importing" if importers else ""

    def _wanted(self) -> str | None:
        """The module whose import by another thread this import waits for."""
        frame = sys._current_frames().get(self._call.thread or -1)
        is_locked = False
        for each in _outwards(frame):
            if not each.f_code.co_filename.startswith("<frozen importlib"):
                return None
            is_locked = is_locked or each.f_code.co_qualname == "_ModuleLock.acquire"
            if is_locked and each.f_code.co_name in ("_find_and_load", "_lock_unlock_module"):
                return str(each.f_locals.get("name"))
        return None


def _imported_by(thread: int | None) -> set[str]:
    """The modules that a thread is importing."""
    frames = _outwards(sys._current_frames().get(thread or -1))
    return {str(frame.f_globals.get("__name__")) for frame in frames if frame.f_code.co_name == "<module>"}


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
