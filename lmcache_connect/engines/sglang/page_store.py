"""`PageStore`: the pages of one rank in the store, by names that say whose they are."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from ..jobs import JobPort, JobResult
from .missed_pages import MissedPages
from .pages import Page
from .transfer_rates import TransferRates

PART_BYTES: Final = 16 << 20
"""The bytes of one job, where a page is not larger."""

AT_A_TIME: Final = 4
"""Jobs of one call that are under way together. They keep several connections busy."""

_LEAST_SECONDS: Final = 0.001


class PageStore:
    """Asks the port, and waits for its answers. Each call has ended by the port's deadline. From any thread.

    Pages are moved in parts, in their order. So a call that does not end in time, or whose store dies, keeps the pages
    of the parts that have ended, and HiCache uses those before the first that is missing.

    A failure of the store is False for the page. The port counts it, and tells it in the log.
    """

    def __init__(self, port: JobPort, *, skip_existing: bool) -> None:
        self.port: Final = port
        self._skip_existing = skip_existing
        self._missed = MissedPages()
        self.loaded: Final = TransferRates()
        """The batches that were loaded."""
        self.stored: Final = TransferRates()
        """The batches that were stored."""

    def load(self, pages: Sequence[Page]) -> list[bool]:
        """Loads pages into their memory. Returns for each whether it holds exactly the page now, verified.

        Raises:
            InvalidArgumentError: memory is not writable, or is that of two pages.
            ConnectorClosedError, BackendClosedError, ForkedProcessError: as for `JobPort.submit_get`.
        """
        flags = [False] * len(pages)
        asked = [at for at, page in enumerate(pages) if page.buffers is not None]
        ends = time.monotonic() + self.port.deadline
        self.loaded.add(*self._move(pages, asked, self.port.submit_get, flags, ends))
        return flags

    def save(self, pages: Sequence[Page]) -> list[bool]:
        """Stores pages from their memory. Returns for each whether the store has it now. Raises what `load` raises.

        Where existing pages are skipped, one that could not be loaded is stored all the same: what is there is damaged.
        """
        flags = [False] * len(pages)
        asked = [at for at, page in enumerate(pages) if page.buffers is not None]
        ends = time.monotonic() + self.port.deadline
        known = [at for at in asked if pages[at].name not in self._missed] if self._skip_existing else []
        if known:
            found = self._wait(self.port.submit_exists([pages[at].name for at in known]))
            if found.error is not None:
                return flags  # a store that does not answer this would be sent the bytes for nothing
            _fill(flags, known, found.flags)
            asked = [at for at in asked if not flags[at]]
        self.stored.add(*self._move(pages, asked, self.port.submit_put, flags, ends))
        return flags

    def has(self, names: Sequence[str]) -> Sequence[bool]:
        """Returns for each name whether the store has a page under it."""
        return self._wait(self.port.submit_exists(names)).flags if names else ()

    def _move(
        self,
        pages: Sequence[Page],
        asked: Sequence[int],
        submit: Callable[..., int],
        flags: list[bool],
        ends: float,
    ) -> tuple[int, int, float]:
        """Moves pages, and fills in their flags. Returns how many were moved, their bytes, and the seconds it took."""
        began = time.monotonic()
        under_way: deque[tuple[Sequence[int], int]] = deque()
        nbytes = 0
        try:
            for part in _parts(pages, asked):
                names, buffers = [pages[at].name for at in part], [pages[at].buffers for at in part]
                left = max(ends - time.monotonic(), _LEAST_SECONDS)
                under_way.append((part, submit(names, buffers, deadline=left)))
                del buffers
                if len(under_way) < AT_A_TIME:
                    continue
                result = self._take(pages, under_way, flags)
                nbytes += result.nbytes
                if result.error is not None:
                    break  # the parts that are left would fail as well
        finally:
            # Also after an exception: their memory is HiCache's again when this returns.
            while under_way:
                nbytes += self._take(pages, under_way, flags).nbytes
        return sum(flags[at] for at in asked), nbytes, time.monotonic() - began

    def _take(self, pages: Sequence[Page], under_way: deque[tuple[Sequence[int], int]], flags: list[bool]) -> JobResult:
        part, job = under_way.popleft()
        result = self._wait(job)
        _fill(flags, part, result.flags)
        if result.kind == "get" and result.error is None:
            self._missed.add(pages[at].name for at in part if not flags[at])
        self._missed.remove(pages[at].name for at in part if flags[at])
        return result

    def _wait(self, job: int) -> JobResult:
        # Without a timeout: the port ends every job by its deadline, and only then does nothing touch the memory.
        result = self.port.wait(job)
        if result is None:  # another thread has taken it
            raise RuntimeError(f"the result of job {job} was given to somebody else")
        return result


def _parts(pages: Sequence[Page], asked: Sequence[int]) -> Iterator[Sequence[int]]:
    """The positions of the pages of each job, in their order."""
    start, size = 0, 0
    for end, at in enumerate(asked):
        nbytes = _nbytes(pages[at].buffers)
        if size and size + nbytes > PART_BYTES:
            yield asked[start:end]
            start, size = end, 0
        size += nbytes
    if start < len(asked):
        yield asked[start:]


def _nbytes(buffers: Any) -> int:
    return buffers.nbytes if isinstance(buffers, memoryview) else sum(each.nbytes for each in buffers)


def _fill(flags: list[bool], places: Sequence[int], answers: Sequence[bool]) -> None:
    for at, answer in zip(places, answers, strict=True):
        flags[at] = answer
