"""The run: opens the store, lets the workers loose, breaks things, and measures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ...config import ConnectorConfig
from ...errors import CircuitOpenError, LMCacheConnectError
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ...memory import LocalCPUBackend
from ...testing import LagWatch, ResourceUse, ResourceWatch
from ...url import RemoteURL
from ..frame.room import require_room
from ..frame.store_options import short_lived
from .budget import Budget
from .chaos import CALM, Chaos
from .freed_memory import return_freed_memory
from .history import History
from .place import Place
from .rates import Rates
from .recovery import AFTERMATH, WINDOW, calm_seconds, recoveries
from .report import OperationRow, Second, SoakReport, Trend
from .tally import Tally
from .worker import Field, Worker

_CLEAN_UP_SECONDS: Final = 15.0
_ENDING_SECONDS: Final = 90.0
"""Seconds that calls may take to end when the load is stopped. Each has a deadline of its own."""


@dataclass(frozen=True)
class Load:
    """What a run is to be like. Sizes are bytes.

    `calm`: seconds without a fault after each. `anyway`: also where a store of the user's has too little room.
    """

    seconds: float
    seed: int
    tasks: int = 8
    largest: int = 32 << 20
    store_bytes: int = 1 << 30
    recovery_limit: float | None = None
    anyway: bool = False
    calm: float = CALM

    @property
    def arena_bytes(self) -> int:
        """Memory for what all tasks move at a time."""
        return self.tasks * self.largest + (self.tasks * self.largest) // 4 + (64 << 20)


Progress = Callable[[str, int], None]
"""Called with what is going on, and how many seconds have passed since the last call."""


async def run_soak(
    place: Place,
    load: Load,
    *,
    stop: asyncio.Event | None = None,
    on_progress: Progress = lambda _text, _seconds: None,
    on_warning: Callable[[str], None] = lambda _text: None,
) -> SoakReport:
    """Loads the store until `load.seconds` have passed, or `stop` is set. Removes what it has put.

    Returns what the run has shown.

    Raises:
        InvalidArgumentError: the store would have to evict chunks of others, or refuse puts.
        LMCacheConnectError: the URL is wrong, or the store cannot be used at the beginning.
    """
    stop = stop or asyncio.Event()
    config = ConnectorConfig.load(errors="raise")
    await _check(place, load, config)
    return_freed_memory()
    gc.collect()
    before = ResourceUse.now()
    # Prefaulted, so that memory which is used for the first time is not taken for a leak.
    with LocalCPUBackend(load.arena_bytes, prefault=True) as backend:
        run = _Run(place, load, stop, backend, config, on_progress, on_warning)
        await run.run()
        held = backend.statistics()
    gc.collect()
    return run.report(before, ResourceUse.now(), held.reserved)


class _Run:
    def __init__(
        self,
        place: Place,
        load: Load,
        stop: asyncio.Event,
        backend: LocalCPUBackend,
        config: ConnectorConfig,
        on_progress: Progress,
        on_warning: Callable[[str], None],
    ) -> None:
        self._place = place
        self._load = load
        self._stop = stop
        self._backend = backend
        self._config = config
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._prefix = f"lmcache-connect-soak-{secrets.token_hex(6)}"
        self._tally = Tally()
        self._budget = Budget(load.store_bytes)
        self._history = History(keeps=place.is_own, reverts=place.reverts)
        self._lag = LagWatch()
        self._resources = ResourceWatch()
        self._chaos = Chaos(place.breakages, self._history, random.Random(f"{load.seed}/chaos"), load.calm)
        self._rates = Rates(time.monotonic(), load.seconds)
        self._lasted = 0.0
        self._keys_left = 0

    async def run(self) -> None:
        async with self._lag, self._resources:
            async with ConnectorManager(local_cpu_backend=self._backend, config=self._config) as manager:
                url = RemoteURL.parse(self._place.url)
                if not self._place.is_own:
                    url = short_lived(url, manager.registry)  # a run that is killed leaves nothing for ever
                connector = await manager.open_connector(url)
                self._rates = Rates(time.monotonic(), self._load.seconds)
                field = Field(
                    connector,
                    self._backend,
                    self._config,
                    self._lag,
                    self._tally,
                    self._rates,
                    self._budget,
                    self._history,
                    self._load.largest,
                    echoes=bool(self._place.breakages),
                    stop=self._stop,
                )
                workers = [Worker(field, self._prefix, number, self._load.seed) for number in range(self._load.tasks)]
                try:
                    async with self._timed():
                        await self._work(workers)
                finally:
                    keys = [key for worker in workers for key in worker.keys]
                    self._on_progress("removing what was put", 0)
                    self._keys_left = await asyncio.shield(self._clean_up(keys))

    async def _work(self, workers: Sequence[Worker]) -> None:
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        chaos = asyncio.ensure_future(self._break()) if self._place.breakages else None
        try:
            await asyncio.wait([asyncio.ensure_future(self._stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stop.set()
            if chaos is not None:
                chaos.cancel()
                # First of all mended: a call at a stopped server would have to wait for its deadline.
                (problem,) = await asyncio.gather(chaos, return_exceptions=True)
                if isinstance(problem, Exception):
                    self._tally.found_unexplained(f"a fault could not be made or mended: {problem}")
            _, pending = await asyncio.wait(tasks, timeout=_ENDING_SECONDS)
            for task in pending:
                task.cancel()
                self._tally.found_late(f"a task has not ended {_ENDING_SECONDS:g} s after the end of the load")
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _break(self) -> None:
        await self._chaos.run(self._rates.begun, self._load.seconds, lambda kind: self._on_progress(kind, 0))

    @contextlib.asynccontextmanager
    async def _timed(self) -> AsyncIterator[None]:
        ticking = asyncio.ensure_future(self._tick())
        try:
            yield
        finally:
            self._lasted = min(time.monotonic() - self._rates.begun, self._load.seconds)
            ticking.cancel()
            await asyncio.gather(ticking, return_exceptions=True)

    async def _tick(self) -> None:
        told = 0
        while not self._stop.is_set():
            await asyncio.sleep(0.1)
            passed = time.monotonic() - self._rates.begun
            if int(passed) > told:
                self._on_progress("", int(passed) - told)
                told = int(passed)
            if passed >= self._load.seconds:
                self._stop.set()

    async def _clean_up(self, keys: list[str]) -> int:
        """Removes all keys of the run, on the direct way. Returns how many may be left."""
        left = keys
        try:
            async with asyncio.timeout(_CLEAN_UP_SECONDS), _opened(self._place.direct, self._config) as connector:
                while left:
                    try:
                        await connector.batched_remove(left)
                        await asyncio.sleep(0.1)  # what a call that was cancelled has sent may arrive now
                        found = await connector.batched_exists(left)
                    except CircuitOpenError as error:
                        await asyncio.sleep(error.retry_in)
                        continue
                    left = [key for key, is_there in zip(left, found, strict=True) if is_there]
        except (LMCacheConnectError, TimeoutError) as error:
            self._on_warning(f"up to {len(left)} keys that begin with {self._prefix} are left in the store: {error}")
        return len(left)

    # -------------------------------------------------------------------------------------------------- report

    def report(self, before: ResourceUse, after: ResourceUse, arena_left: int) -> SoakReport:
        tally, faults, seconds = self._tally, self._chaos.faults, self._lasted
        calm = [self._rates.bytes_per_second(begin, begin + WINDOW) for begin in calm_seconds(faults, seconds)]
        calm = calm or [self._rates.bytes_per_second(0, max(seconds, 0.1))]  # a run that is too short to tell
        operations = sorted({*tally.calls, *tally.failed})
        return SoakReport(
            store=RemoteURL.parse(self._place.direct).redacted(),
            server=self._place.server,
            seed=self._load.seed,
            tasks=self._load.tasks,
            chaos=bool(self._place.breakages),
            asked_seconds=self._load.seconds,
            seconds=seconds,
            stopped=seconds < self._load.seconds - 0.2,
            operations=tuple(
                OperationRow(
                    operation,
                    tally.calls[operation],
                    tally.failed[operation],
                    *(tally.percentile(operation, share) for share in (0.5, 0.99, 1.0)),
                )
                for operation in operations
            ),
            cancelled=tally.cancelled,
            values=tally.values,
            nbytes=tally.nbytes,
            missing=tally.missing,
            older=tally.older,
            wrong=tuple(tally.wrong),
            wrong_count=tally.wrong_count,
            late=tuple(tally.late),
            late_count=tally.late_count,
            latest=tally.latest,
            unexplained=tuple(tally.unexplained),
            unexplained_count=tally.unexplained_count,
            errors=tuple(tally.errors.most_common()),
            most_bytes=self._budget.most,
            calm_bytes_per_second=statistics.median(calm),
            calls_per_second=self._rates.calls_per_second(0, max(seconds, 0.1)),
            faults=tuple(faults),
            recoveries=tuple(recoveries(self._rates, faults, seconds)),
            recovery_limit=self._load.recovery_limit,
            trends=tuple(self._trend(what, before, after) for what in ("rss", "descriptors", "threads", "tasks")),
            arena_left=arena_left,
            loop_lag=self._lag.loop.worst,
            thread_lag=self._lag.threads.worst,
            keys_left=self._keys_left,
            timeline=tuple(self._timeline(seconds)),
        )

    def _trend(self, what: str, before: ResourceUse, after: ResourceUse) -> Trend:
        values = [float(getattr(use, what)) for _, use in self._resources.samples] or [float(getattr(before, what))]
        return Trend(
            what,
            before=float(getattr(before, what)),
            median=statistics.median(values),
            most=max(values),
            growth=self._resources.growth(what, self._is_calm),
            after=float(getattr(after, what)),
        )

    def _is_calm(self, when: float) -> bool:
        """Whether a monotonic time is not one of a fault: in one, connections are closed, and others wait."""
        at = when - self._rates.begun
        return not any(fault.begun <= at <= fault.ended + AFTERMATH for fault in self._chaos.faults)

    def _timeline(self, seconds: float) -> list[Second]:
        found: list[Second] = []
        for when, use in self._resources.samples:
            at = when - self._rates.begun
            if 0.5 <= at <= seconds:
                start = max(0.0, at - 1)
                found.append(
                    Second(
                        at,
                        self._rates.bytes_per_second(start, at),
                        self._rates.calls_per_second(start, at),
                        use.rss,
                        use.descriptors,
                        use.threads,
                        use.tasks,
                    )
                )
        return found


async def _check(place: Place, load: Load, config: ConnectorConfig) -> None:
    """Raises `LMCacheConnectError` where the store cannot be used. Otherwise a run would show nothing but errors."""
    async with _opened(place.direct, config) as connector:
        if connector.support_ping():
            await connector.ping()
        else:
            await connector.exists(f"lmcache-connect-soak-{secrets.token_hex(6)}/none")
        if not (place.is_own or load.anyway):
            await require_room(connector, load.store_bytes, "--store-bytes")


@contextlib.asynccontextmanager
async def _opened(url: str, config: ConnectorConfig) -> AsyncIterator[ManagedConnector]:
    with LocalCPUBackend(1 << 20) as backend:
        async with ConnectorManager(RemoteURL.parse(url), None, backend, config) as manager:
            yield manager.create_connector()
