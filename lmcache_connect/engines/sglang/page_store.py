"""`PageStore`: the pages of one rank in the store, by names that say whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..jobs import JobPort, JobResult
from .pages import Page
from .transfer_rates import TransferRates


class PageStore:
    """Asks the port, and waits for its answers. Each call has ended by the port's deadline. From any thread.

    A failure of the store is False for the page. The port counts it, and tells it in the log.
    """

    def __init__(self, port: JobPort, *, skip_existing: bool) -> None:
        self.port: Final = port
        self._skip_existing = skip_existing
        self.loaded: Final = TransferRates()
        """The batches that were loaded."""
        self.stored: Final = TransferRates()
        """The batches that were stored."""

    def load(self, pages: Sequence[Page]) -> list[bool]:
        """Loads pages into their memory. Returns for each whether it holds exactly the page now, verified."""
        flags = [False] * len(pages)
        asked = [at for at, page in enumerate(pages) if page.buffers is not None]
        if asked:
            job = self.port.submit_get([pages[at].name for at in asked], [pages[at].buffers for at in asked])
            result = self._wait(job)
            _count(self.loaded, result)
            _fill(flags, asked, result.flags)
        return flags

    def save(self, pages: Sequence[Page]) -> list[bool]:
        """Stores pages from their memory. Returns for each whether the store has it now."""
        flags = [False] * len(pages)
        asked = [at for at, page in enumerate(pages) if page.buffers is not None]
        if asked and self._skip_existing:
            found = self._wait(self.port.submit_exists([pages[at].name for at in asked]))
            if found.error is not None:
                return flags  # a store that does not answer this would be sent the bytes for nothing
            _fill(flags, asked, found.flags)
            asked = [at for at in asked if not flags[at]]
        if asked:
            job = self.port.submit_put([pages[at].name for at in asked], [pages[at].buffers for at in asked])
            result = self._wait(job)
            _count(self.stored, result)
            _fill(flags, asked, result.flags)
        return flags

    def has(self, names: Sequence[str]) -> Sequence[bool]:
        """Returns for each name whether the store has a page under it."""
        return self._wait(self.port.submit_exists(names)).flags if names else ()

    def _wait(self, job: int) -> JobResult:
        # Without a timeout: the port ends every job by its deadline, and only then does nothing touch the memory.
        result = self.port.wait(job)
        if result is None:  # another thread has taken it
            raise RuntimeError(f"the result of job {job} was given to somebody else")
        return result


def _fill(flags: list[bool], places: Sequence[int], answers: Sequence[bool]) -> None:
    for at, answer in zip(places, answers, strict=True):
        flags[at] = answer


def _count(rates: TransferRates, result: JobResult) -> None:
    rates.add(sum(result.flags), result.nbytes, result.seconds)
