"""`lmcache-connect cp`: copies chunks from one store into another, and can be interrupted at any moment.

1. The lister names the source's keys, a page at a time. `Sorting` asks both stores about them, without their payloads,
   and counts what is the same. What is left comes into windows.
2. Workers take windows, several at a time: they get the chunks, put them, set their times to live, and read them back
   where that is wanted. All chunks of a copy lie in one arena, which bounds the windows.
3. What ends it early (a signal, a store that fails for long) lets the windows under way finish. A further run finds
   what is there, and goes on.

The source is only read, and a damaged record stays in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ...contract import counting_left_out
from ...errors import InvalidArgumentError, LMCacheConnectError
from ...managed import ManagedConnector
from ...memory import LocalCPUBackend
from ...url import RemoteURL
from ..frame.opening import command_config, open_store
from ..store.selection import Selection, keys_in, pages_of
from .journal import Journal
from .limits import MemoryGate, RateLimit
from .moving import Moving
from .sorting import Sorting
from .store_wait import StoreWait
from .tally import Tally
from .window import Window, windows_of

_PAGE: Final = 128
"""Keys that both stores are asked about together, and the most in a window."""

_LARGEST_WINDOW: Final = 128 << 20

_AHEAD: Final = 256
"""Windows that the lister is ahead of the workers at most."""

_GRACE: Final = 10.0
"""Seconds for which windows under way may finish when the copy is to stop."""


@dataclass(frozen=True)
class CopyPlan:
    """What is to be copied, and how. Sizes are bytes, times are seconds.

    `rate` is in bytes per second. `ttl` is that of every chunk that is copied; None: what is left of it at the source.
    `memory` None: as the settings say. `wait`: how long a store may fail before the copy ends.
    """

    source: str
    destination: str
    selection: Selection = field(default_factory=Selection)
    overwrite: bool = False
    verify: bool = False
    dry_run: bool = False
    rate: int | None = None
    ttl: float | None = None
    memory: int | None = None
    parallel: int = 4
    state: Path | None = None
    wait: float = 30.0


@dataclass(frozen=True)
class CopyReport:
    """What came of a copy. `source` and `destination` are redacted URLs.

    `left_out` names of the source cannot be keys. `is_complete`: every key was dealt with. `error` is what has ended it
    before that. `keeps_ttls`: the destination can be told when to forget a chunk.
    """

    source: str
    destination: str
    tally: Tally
    left_out: int
    seconds: float
    is_complete: bool
    is_stopped: bool
    keeps_ttls: bool
    dry_run: bool
    error: LMCacheConnectError | None

    @property
    def ok(self) -> bool:
        """Whether every key that the source still has is at the destination now."""
        return self.is_complete and self.tally.is_clean


OnProgress = Callable[[int, int, bool], None]
"""Called with the bytes that were dealt with, those that were found, and whether the source is listed to its end."""


async def copy_chunks(plan: CopyPlan, stop: asyncio.Event, on_progress: OnProgress) -> CopyReport:
    """Copies chunks until all are dealt with, `stop` is set, or a store fails for long.

    Raises:
        InvalidArgumentError: both URLs are the same store, or the destination cannot have the TTL that is wanted.
        LMCacheConnectError: a store cannot be used, and nothing was begun.
        OSError: the state file cannot be used.
    """
    if RemoteURL.parse(plan.source) == RemoteURL.parse(plan.destination):
        raise InvalidArgumentError("destination", "it is the source; name another store, or another ?prefix=")
    config = command_config() if plan.memory is None else command_config(max_local_cpu_bytes=plan.memory)
    with LocalCPUBackend(config.max_local_cpu_bytes) as memory:
        async with (
            open_store(plan.source, config=config, memory=memory) as source,
            open_store(plan.destination, config=config, memory=memory) as destination,
        ):
            if plan.ttl is not None and not destination.support_expiry():
                raise InvalidArgumentError("ttl", f"{destination.store} keeps no time to live of single chunks")
            for connector in (source, destination):
                if (cache := connector.find_hot_cache()) is not None:
                    cache.enabled = False  # what is read back is to come from the store
            return await _Copy(plan, source, destination, memory.chunk_limit(), stop, on_progress).run()


class _Copy:
    """One run of a copy."""

    def __init__(
        self,
        plan: CopyPlan,
        source: ManagedConnector,
        destination: ManagedConnector,
        capacity: int,
        stop: asyncio.Event,
        on_progress: OnProgress,
    ) -> None:
        self._plan = plan
        self._source = source
        self._destination = destination
        self._stop = stop
        self._on_progress = on_progress
        self._tally = Tally()
        self._store_wait = StoreWait(plan.wait, stop)
        self._error: LMCacheConnectError | None = None
        self._left_out = 0
        self._is_listed = False
        self._found_bytes = 0
        self._done_bytes = 0
        self._open = 0
        self._has_begun = False
        # A window is held twice: while it is read back, and by connectors that put private copies.
        self._window_bytes = max(1, min(_LARGEST_WINDOW, capacity // (3 * plan.parallel)))
        self._gate = MemoryGate(capacity)
        self._windows: asyncio.Queue[Window | None] = asyncio.Queue()
        self._ahead = asyncio.Semaphore(_AHEAD)

    async def run(self) -> CopyReport:
        started = time.monotonic()
        plan = self._plan
        journal = None
        if plan.state is not None and not plan.dry_run:
            journal = Journal(plan.state, self._source.store, self._destination.store)
        try:
            await self._run(journal)
        finally:
            if journal is not None:
                journal.close()
        if self._error is not None and not self._has_begun:
            raise self._error
        return CopyReport(
            source=self._source.context.remote_url.redacted(),
            destination=self._destination.context.remote_url.redacted(),
            tally=self._tally,
            left_out=self._left_out,
            seconds=time.monotonic() - started,
            is_complete=self._is_listed and not self._open and self._error is None,
            is_stopped=self._stop.is_set() and self._error is None,
            keeps_ttls=self._destination.support_expiry(),
            dry_run=plan.dry_run,
            error=self._error,
        )

    async def _run(self, journal: Journal | None) -> None:
        plan = self._plan
        sorting = Sorting(
            self._source,
            self._destination,
            self._tally,
            self._store_wait,
            overwrite=plan.overwrite,
            verify=plan.verify,
            dry_run=plan.dry_run,
            journal=journal,
        )
        moving = Moving(
            self._source,
            self._destination,
            self._tally,
            self._store_wait,
            sorting,
            RateLimit(plan.rate),
            overwrite=plan.overwrite,
            verify=plan.verify,
            ttl=plan.ttl,
            journal=journal,
        )
        lister = asyncio.create_task(self._list(sorting))
        workers = [asyncio.create_task(self._work(moving)) for _ in range(plan.parallel)]
        stopping = asyncio.create_task(self._stop.wait())
        everything = {lister, *workers}
        try:
            while running := [task for task in everything if not task.done()]:
                await asyncio.wait([*running, stopping], return_when=asyncio.FIRST_COMPLETED)
                if self._stop.is_set() or _has_failed(everything):
                    lister.cancel()
                    self._forget_windows()
                    await asyncio.wait(everything, timeout=_GRACE)
                    break
        finally:
            for task in (*everything, stopping):
                task.cancel()
            await asyncio.wait([*everything, stopping])
        for task in everything:
            if not task.cancelled():
                task.result()  # of the state file, which cannot be written, or a fault of ours

    def _forget_windows(self) -> None:
        while not self._windows.empty():
            self._windows.get_nowait()
        for _ in range(self._plan.parallel):
            self._windows.put_nowait(None)

    async def _list(self, sorting: Sorting) -> None:
        try:
            with counting_left_out() as left_out:
                try:
                    await self._list_all(sorting)
                finally:
                    self._left_out = left_out.count
            self._is_listed = True
            self._tell()
        except LMCacheConnectError as error:
            self._fail(error)
        for _ in range(self._plan.parallel):
            self._windows.put_nowait(None)

    async def _list_all(self, sorting: Sorting) -> None:
        names = keys_in(self._source, self._plan.selection)
        async for page in pages_of(names, _PAGE):
            for job, items in (await sorting.sort(page)).items():
                for window in windows_of(job, items, self._window_bytes, _PAGE):
                    await self._ahead.acquire()
                    self._open += 1
                    self._found_bytes += window.size
                    self._windows.put_nowait(window)
            self._tell()

    async def _work(self, moving: Moving) -> None:
        while (window := await self._windows.get()) is not None:
            self._ahead.release()
            try:
                self._has_begun = True
                async with self._gate.holding(2 * window.size):
                    await moving.deal_with(window)
            except LMCacheConnectError as error:
                self._fail(error)
                return
            self._open -= 1
            self._done_bytes += window.size
            self._tell()

    def _fail(self, error: LMCacheConnectError) -> None:
        if self._error is None:
            self._error = error
        self._stop.set()

    def _tell(self) -> None:
        self._on_progress(self._done_bytes, self._found_bytes, self._is_listed)


def _has_failed(tasks: Iterable[asyncio.Task[None]]) -> bool:
    """Whether one has ended by an error. The others would wait for it: the lister for windows to be taken."""
    errors = [task.exception() for task in tasks if task.done() and not task.cancelled()]
    return any(error is not None for error in errors)
