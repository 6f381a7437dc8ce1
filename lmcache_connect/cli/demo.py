"""The demo: chunks of real size through a real store, every byte compared, and a report of what happened."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from ..config import ConnectorConfig
from ..errors import CircuitOpenError, LMCacheConnectError, UnsupportedOperationError
from ..keys import CacheEngineKey
from ..managed import ManagedConnector
from ..manager import ConnectorManager
from ..memory import LocalCPUBackend, MemoryObj
from ..url import RemoteURL
from .demo_report import Call, DemoReport, KindReport
from .workload import ChunkKind, Workload, allocate, scrub

T = TypeVar("T")

CLEAN_UP_SECONDS: Final = 5.0
"""How long a demo that failed or was interrupted takes at most to remove what it wrote."""

_ABSENT: Final = "absent"
_CLEAN_UP_TRIES: Final = 3
_SETTLE_SECONDS: Final = 0.05

Progress: TypeAlias = Callable[[str, int], None]
"""Told what is being done, and how many bytes were moved since it was last told."""


async def run_demo(
    url: str,
    workload: Workload,
    *,
    keep: bool = False,
    server: str | None = None,
    on_progress: Progress = lambda _text, _nbytes: None,
    on_warning: Callable[[str], None] = lambda _text: None,
) -> DemoReport:
    """Puts, finds, gets, compares and removes the workload's chunks in the store at `url`.

    Only keys that this run wrote are ever removed, and none is overwritten that was there before. What was written is
    removed also where the run fails or is cancelled, unless `keep` is set; `on_warning` is told where that fails.

    Raises:
        LMCacheConnectError: the URL is wrong or the store cannot be used. A store that answers wrongly is reported.
    """
    remote_url = RemoteURL.parse(url)
    config = ConnectorConfig.load(errors="raise")  # a failure must not look like a miss here
    on_progress("preparing memory", 0)
    # Prefaulted, because the first pass through fresh memory measures the kernel's page faults.
    with LocalCPUBackend(workload.arena_bytes, metadata=workload.metadata, prefault=True) as backend:
        started = time.perf_counter()
        async with ConnectorManager(remote_url, None, backend, config, workload.metadata) as manager:
            connector = manager.create_connector()
            demo = _Demo(connector, backend, workload, keep, on_progress, on_warning)
            kinds = await demo.run()
            counters = connector.statistics().values()
        arena = backend.statistics()
        corrupt: Counter[str] = Counter()
        for counter in counters:
            for reason, count in counter.misses.items():
                if reason.startswith("corrupt:") and count:
                    corrupt[reason.removeprefix("corrupt:")] += count
        return DemoReport(
            store=remote_url.redacted(),
            server=server,
            model_name=workload.model_name,
            seed=workload.seed,
            rounds=workload.rounds,
            kinds=tuple(kinds),
            bytes_put=demo.bytes_put,
            bytes_got=demo.bytes_got,
            seconds=time.perf_counter() - started,
            longest=demo.longest,
            arena_capacity=arena.capacity,
            arena_balance=arena.reserved,
            arena_objects=arena.live_objects,
            keys_written=demo.keys_written,
            keys_removed=demo.keys_removed,
            retries=sum(counter.retries for counter in counters),
            corrupt=dict(corrupt),
            problems=dict(demo.problems),
        )


class _KeysTakenError(Exception):
    """The store claims to hold keys that nobody can have written."""


@dataclass
class _Tally:
    hits: int = 0
    expected_hits: int = 0
    misses: int = 0
    expected_misses: int = 0
    verified: int = 0


class _Demo:
    def __init__(
        self,
        connector: ManagedConnector,
        backend: LocalCPUBackend,
        workload: Workload,
        keep: bool,
        on_progress: Progress,
        on_warning: Callable[[str], None],
    ) -> None:
        self._connector = connector
        self._backend = backend
        self._workload = workload
        self._keep = keep
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._written: dict[str, CacheEngineKey] = {}
        self.keys_written = self.keys_removed = self.bytes_put = self.bytes_got = 0
        self.longest = Call("", 0, 0.0)
        self.problems: Counter[str] = Counter()

    async def run(self) -> list[KindReport]:
        kinds: list[KindReport] = []
        try:
            await self._check_store()
            for kind in self._workload.kinds:
                kinds.append(await self._run_kind(kind))  # noqa: PERF401  # what was done stays where a later one fails
        except _KeysTakenError as error:
            self.problems[str(error)] += 1
        finally:
            if self._written and not self._keep:
                await self._clean_up()
        return kinds

    async def _check_store(self) -> None:
        """Finds out before anything is written whether the store can be reached and written keys be removed."""
        self._on_progress("connecting", 0)
        if self._connector.support_ping():
            await self._connector.ping()
        if not self._keep:
            try:
                await self._connector.remove(self._workload.key(self._workload.kinds[0], _ABSENT))
            except UnsupportedOperationError as error:
                error.add_note("the demo could not remove what it writes; --keep runs it and leaves its keys there")
                raise

    async def _run_kind(self, kind: ChunkKind) -> KindReport:
        keys = [self._workload.key(kind, index) for index in range(kind.count)]
        absent = self._workload.key(kind, _ABSENT)
        rounds = self._workload.rounds
        tally = _Tally()
        if any(await self._connector.batched_exists([*keys, absent])):
            raise _KeysTakenError(f"{kind.name}: the store says that it holds keys which were never written")
        # The first pass is of single chunks, and warms the store's memory for the batches.
        await self._put_one_by_one(kind, keys)
        await self._look_up(kind, keys, absent)
        latencies = [took for _ in range(rounds) for took in await self._get_one_by_one(kind, keys, tally)]
        put_seconds, get_seconds = [], []
        for generation in range(1, rounds + 1):
            put_seconds.append(await self._put_in_batches(kind, keys, generation))
            get_seconds.append(await self._get_in_batches(kind, keys, generation, tally))
        await self._get_with_a_gap(kind, keys, absent, rounds, tally)
        if not self._keep:
            await self._remove(kind, keys, tally)
        nbytes = kind.count * kind.chunk.nbytes
        return KindReport(
            kind,
            put_rate=nbytes / statistics.median(put_seconds),
            get_rate=nbytes / statistics.median(get_seconds),
            get_seconds=statistics.median(latencies),
            **vars(tally),
        )

    # ---------------------------------------------------------------------------------------------- the steps

    async def _put_one_by_one(self, kind: ChunkKind, keys: Sequence[CacheEngineKey]) -> None:
        for key in keys:
            with self._filled(kind, [key], 0) as (obj,):
                self._written[key.to_string()] = key  # before: a put that fails may still have stored it
                await self._call("put", self._connector.put(key, obj))
            self.keys_written += 1
            self._put_bytes(kind, 1)

    async def _look_up(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], absent: CacheEngineKey) -> None:
        self._on_progress(f"looking up: {kind.name}", 0)
        gap = len(keys) // 2
        expected = [True] * len(keys)
        found, _ = await self._call("batched_exists", self._connector.batched_exists([*keys, absent]), len(keys))
        self._check(found == [*expected, False], kind, "batched_exists is wrong")
        tail = await self._connector.batched_async_contains("demo", [*keys, absent])
        self._check(tail == len(keys), kind, "batched_async_contains is wrong with a missing tail")
        hole = await self._connector.batched_async_contains("demo", [*keys[:gap], absent, *keys[gap:]])
        self._check(hole == gap, kind, "batched_async_contains is wrong with a gap")
        self._check(await self._connector.exists(keys[0]), kind, "exists is wrong for a chunk that was put")
        self._check(not await self._connector.exists(absent), kind, "exists is wrong for a missing key")

    async def _get_one_by_one(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], tally: _Tally) -> list[float]:
        """Seconds of each get."""
        latencies: list[float] = []
        scrub(self._backend)
        for key in keys:
            found, took = await self._call("get", self._connector.get(key))
            latencies.append(took)
            await self._examine(kind, [key], [found], 0, tally)
        return latencies

    async def _put_in_batches(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int) -> float:
        """Seconds of all batches together."""
        seconds = 0.0
        for batch in kind.batches(keys):
            with self._filled(kind, batch, generation) as objs:
                _, took = await self._call("batched_put", self._connector.batched_put(batch, objs), len(batch))
            seconds += took
            self._put_bytes(kind, len(batch))
        return seconds

    async def _get_in_batches(
        self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int, tally: _Tally
    ) -> float:
        """Seconds of all batches together."""
        seconds = 0.0
        for batch in kind.batches(keys):
            scrub(self._backend)
            found, took = await self._call("batched_get", self._connector.batched_get(batch), len(batch))
            seconds += took
            await self._examine(kind, batch, found, generation, tally)
        return seconds

    async def _get_with_a_gap(
        self,
        kind: ChunkKind,
        keys: Sequence[CacheEngineKey],
        absent: CacheEngineKey,
        generation: int,
        tally: _Tally,
    ) -> None:
        """A missing key is a miss: by itself, and in the middle of a batch without moving its neighbours."""
        wanted = [keys[0], absent, keys[-1]]
        await self._examine(kind, [absent], [await self._connector.get(absent)], generation, tally, absent)
        await self._examine(kind, wanted, await self._connector.batched_get(wanted), generation, tally, absent)

    async def _remove(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], tally: _Tally) -> None:
        self._on_progress(f"removing: {kind.name}", 0)
        for key in keys:
            removed = await self._connector.remove(key)
            self._check(removed, kind, "remove says that a chunk which was put is not there")
            self.keys_removed += removed
            del self._written[key.to_string()]
        self._check(not any(await self._connector.batched_exists(keys)), kind, "removed chunks are still there")
        await self._examine(kind, [keys[0]], [await self._connector.get(keys[0])], 0, tally, keys[0])

    # --------------------------------------------------------------------------------------------- their parts

    @contextmanager
    def _filled(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int) -> Iterator[list[MemoryObj]]:
        """A chunk for each key, for the block."""
        objs: list[MemoryObj] = []
        try:
            for key in keys:
                objs.append(allocate(self._backend, kind.chunk))
                self._workload.pattern(key, generation).fill(objs[-1].byte_array)
            yield objs
        finally:
            for obj in objs:
                obj.ref_count_down()

    async def _call(self, operation: str, call: Awaitable[T], chunks: int = 1) -> tuple[T, float]:
        started = time.perf_counter()
        result = await call
        took = time.perf_counter() - started
        if took > self.longest.seconds:
            self.longest = Call(operation, chunks, took)
        return result, took

    async def _examine(
        self,
        kind: ChunkKind,
        keys: Sequence[CacheEngineKey],
        found: Sequence[MemoryObj | None],
        generation: int,
        tally: _Tally,
        absent: CacheEngineKey | None = None,
    ) -> None:
        """Compares what a get gave with what was put, and releases it. `absent` is the key that must be a miss."""
        waiting = list(found)
        try:
            for index, (key, obj) in enumerate(zip(keys, found, strict=True)):
                expected = key != absent
                tally.expected_hits += expected
                tally.expected_misses += not expected
                tally.hits += obj is not None
                tally.misses += obj is None
                if obj is not None:
                    waiting[index] = None
                    with obj:
                        complaint = (
                            self._complaint(kind, key, obj, generation) if expected else "a missing key was found"
                        )
                    self._check(not complaint, kind, complaint)
                    tally.verified += not complaint
                    self.bytes_got += kind.chunk.nbytes
                    self._on_progress(f"getting: {kind.name}", kind.chunk.nbytes)
                else:
                    self._check(not expected, kind, "a chunk that was put is a miss")
                await asyncio.sleep(0)  # comparing takes a while, and Ctrl-C and the progress bar wait for a turn
        finally:
            for obj in waiting:
                if obj is not None:
                    obj.ref_count_down()

    def _complaint(self, kind: ChunkKind, key: CacheEngineKey, obj: MemoryObj, generation: int) -> str:
        if obj.metadata != kind.chunk:
            return "a chunk came back with other shapes, dtypes or format than it was put with"
        at = self._workload.pattern(key, generation).difference(obj.byte_array)
        return "" if at is None else f"a chunk came back with other bytes, first at byte {at}"

    def _check(self, holds: bool, kind: ChunkKind, complaint: str) -> None:
        if not holds:
            self.problems[f"{kind.name}: {complaint}"] += 1

    def _put_bytes(self, kind: ChunkKind, chunks: int) -> None:
        self.bytes_put += chunks * kind.chunk.nbytes
        self._on_progress(f"putting: {kind.name}", chunks * kind.chunk.nbytes)

    async def _clean_up(self) -> None:
        """Removes what is left after a failure or a cancellation, and says so where it cannot."""
        self._on_progress("removing what was written", 0)
        keys = list(self._written.values())
        try:
            async with asyncio.timeout(CLEAN_UP_SECONDS):
                for _ in range(_CLEAN_UP_TRIES):
                    try:
                        for key in keys:
                            await self._connector.remove(key)
                        # The server may still have been at work on a put that was cancelled, and store it only now.
                        await asyncio.sleep(_SETTLE_SECONDS)
                        found = await self._connector.batched_exists(keys)
                    except CircuitOpenError as error:  # what failed before need not fail again
                        await asyncio.sleep(error.retry_in)
                        continue
                    keys = [key for key, exists in zip(keys, found, strict=True) if exists]
                    if not keys:
                        return
            self._on_warning(f"{len(keys)} keys of the model {self._workload.model_name} may still be in the store")
        except (LMCacheConnectError, TimeoutError):
            self._on_warning(
                f"up to {len(keys)} keys of the model {self._workload.model_name} are left in the store, "
                "which does not answer"
            )
