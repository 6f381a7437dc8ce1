"""`LoadParts`: one load of vLLM's, which several jobs do, one after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from .moved import Moved

PART_BYTES: Final = 16 << 20
"""The bytes of one job."""

AT_A_TIME: Final = 4
"""Jobs of one load that are under way together. They keep several connections busy."""


class LoadParts:
    """One load: its keys, and what has become of each. Its jobs may end in several threads.

    The jobs go in the order of the keys. So a load that does not end in time, or whose store dies, keeps the chunks of
    those that have ended, and vLLM computes the rest.
    """

    def __init__(self, job: int, keys: tuple[bytes, ...], chunks: Sequence[int], chunk_nbytes: int, due: float) -> None:
        """`job` is vLLM's number, `chunks` are one of vLLM's for each key, and `due` is when it must be over."""
        self.keys: Final = keys
        self.chunks: Final = chunks
        self.due: Final = due
        size = max(1, PART_BYTES // max(1, chunk_nbytes))
        # A load without keys has one part, too.
        self._ranges = deque(range(start, min(start + size, len(keys))) for start in range(0, len(keys) or 1, size))
        self._job = job
        self._lock = threading.Lock()
        self._flags = [False] * len(keys)
        self._left = len(self._ranges)
        self._seconds = 0.0

    def take(self) -> range | None:
        """Returns the positions of the keys of the next job; None: all have been taken."""
        try:
            return self._ranges.popleft()
        except IndexError:
            return None

    def arrived(self, part: range, flags: Sequence[bool], seconds: float) -> Moved | None:
        """One job has ended. Returns the answer with the last one, and else None. `seconds` are those of the job."""
        with self._lock:
            self._flags[part.start : part.stop] = flags
            self._left -= 1
            self._seconds += seconds
            if self._left:
                return None
            return Moved(self._job, True, self.keys, tuple(self._flags), self._seconds, sum(self._flags))
