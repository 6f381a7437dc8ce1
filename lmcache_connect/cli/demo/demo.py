"""The demo: puts and gets chunks of real size, compares every byte, and reports the results and the rates."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeAlias, TypeVar

from ...config import ConnectorConfig
from ...errors import UnsupportedOperationError
from ...keys import CacheEngineKey
from ...managed import ManagedConnector
from ...manager import ConnectorManager
from ...memory import LocalCPUBackend, MemoryObj
from ...url import RemoteURL
from ..frame.room import require_room
from .findings import Findings, Tally
from .report import Call, DemoReport, KindReport
from .workload import ChunkKind, Workload, allocate, scrub
from .written_keys import WrittenKeys

T = TypeVar("T")

_ABSENT: Final = "absent"

Progress: TypeAlias = Callable[[str, int], None]
"""Called with the current step, and with the number of bytes moved since the last call."""


async def run_demo(
    url: str,
    workload: Workload,
    *,
    keep: bool = False,
    anyway: bool = False,
    server: str | None = None,
    on_progress: Progress = lambda _text, _nbytes: None,
    on_warning: Callable[[str], None] = lambda _text: None,
) -> DemoReport:
    """Puts, finds, gets, compares and removes the workload's chunks in the store at `url`.

    Only keys that this run wrote are removed, and no other key is overwritten. Unless `keep` is set, the keys are
    removed even if the run fails or is cancelled. `on_warning` is called where that is not possible.

    Returns a report, which lists the wrong answers of the store.

    Raises:
        InvalidArgumentError: the store would have to evict chunks of others, or refuse puts; not with `anyway`.
        LMCacheConnectError: the URL is wrong or the store cannot be used.
    """
    remote_url = RemoteURL.parse(url)
    config = ConnectorConfig.load(errors="raise")  # a failure must not look like a miss here
    on_progress("preparing memory", 0)
    # Prefaulted, because the first pass through new memory would measure the kernel's page faults.
    with LocalCPUBackend(workload.arena_bytes, metadata=workload.metadata, prefault=True) as backend:
        started = time.perf_counter()
        async with ConnectorManager(remote_url, None, backend, config, workload.metadata) as manager:
            connector = manager.create_connector()
            demo = _Demo(connector, backend, workload, keep, anyway, on_progress, on_warning)
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
            bytes_got=demo.findings.bytes_got,
            seconds=time.perf_counter() - started,
            longest=demo.longest,
            arena_capacity=arena.capacity,
            arena_balance=arena.reserved,
            arena_objects=arena.live_objects,
            keys_written=demo.keys_written,
            keys_removed=demo.keys_removed,
            retries=sum(counter.retries for counter in counters),
            corrupt=dict(corrupt),
            problems=dict(demo.findings.problems),
        )


class _KeysTakenError(Exception):
    """The store claims to hold keys that this run has not put yet."""


class _Demo:
    def __init__(
        self,
        connector: ManagedConnector,
        backend: LocalCPUBackend,
        workload: Workload,
        keep: bool,
        anyway: bool,
        on_progress: Progress,
        on_warning: Callable[[str], None],
    ) -> None:
        self._connector = connector
        self._backend = backend
        self._workload = workload
        self._keep = keep
        self._anyway = anyway
        self._on_progress = on_progress
        self._on_warning = on_warning
        self._written = WrittenKeys(connector, workload.model_name)
        self.findings = Findings(workload, on_progress)
        self.keys_written = self.keys_removed = self.bytes_put = 0
        self.longest = Call("", 0, 0.0)

    async def run(self) -> list[KindReport]:
        kinds: list[KindReport] = []
        try:
            await self._check_store()
            for kind in self._workload.kinds:
                kinds.append(await self._run_kind(kind))  # noqa: PERF401  # keeps the finished ones if a later one fails
        except _KeysTakenError as error:
            self.findings.problems[str(error)] += 1
        finally:
            if self._written and not self._keep:
                self._on_progress("removing what was written", 0)
                await self._written.clean_up(self._on_warning)
        return kinds

    async def _check_store(self) -> None:
        """Checks that the store can be reached and supports `remove`, before anything is written."""
        self._on_progress("connecting", 0)
        if self._connector.support_ping():
            await self._connector.ping()
        if not self._keep:
            try:
                await self._connector.remove(self._workload.key(self._workload.kinds[0], _ABSENT))
            except UnsupportedOperationError as error:
                error.add_note(
                    "the demo could not remove its keys from this store; --keep runs it and leaves them there"
                )
                raise
        if not self._anyway:
            stored = self._workload.stored_bytes(self._keep)
            await require_room(self._connector, stored, "--chunks", -(-stored // self._workload.kinds[0].count), "")

    async def _run_kind(self, kind: ChunkKind) -> KindReport:
        keys = [self._workload.key(kind, index) for index in range(kind.count)]
        absent = self._workload.key(kind, _ABSENT)
        rounds = self._workload.rounds
        tally = Tally()
        if any(await self._connector.batched_exists([*keys, absent])):
            raise _KeysTakenError(f"{kind.name}: the store says that it holds keys that were never written")
        # The first pass puts single chunks. It warms the store's memory for the batches.
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
                self._written.add(key)
                await self._call("put", self._connector.put(key, obj))
            self.keys_written += 1
            self._put_bytes(kind, 1)

    async def _look_up(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], absent: CacheEngineKey) -> None:
        self._on_progress(f"looking up: {kind.name}", 0)
        gap = len(keys) // 2
        expected = [True] * len(keys)
        found, _ = await self._call("batched_exists", self._connector.batched_exists([*keys, absent]), len(keys))
        self.findings.check(found == [*expected, False], kind, "batched_exists is wrong")
        tail = await self._connector.batched_async_contains("demo", [*keys, absent])
        self.findings.check(tail == len(keys), kind, "batched_async_contains is wrong with a missing tail")
        hole = await self._connector.batched_async_contains("demo", [*keys[:gap], absent, *keys[gap:]])
        self.findings.check(hole == gap, kind, "batched_async_contains is wrong with a gap")
        self.findings.check(await self._connector.exists(keys[0]), kind, "exists is wrong for a chunk that was put")
        self.findings.check(not await self._connector.exists(absent), kind, "exists is wrong for a missing key")

    async def _get_one_by_one(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], tally: Tally) -> list[float]:
        """Returns the seconds of each get."""
        latencies: list[float] = []
        scrub(self._backend)
        for key in keys:
            found, took = await self._call("get", self._connector.get(key))
            latencies.append(took)
            await self.findings.examine(kind, [key], [found], 0, tally)
        return latencies

    async def _put_in_batches(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int) -> float:
        """Returns the seconds of all batches together."""
        seconds = 0.0
        for batch in kind.batches(keys):
            with self._filled(kind, batch, generation) as objs:
                _, took = await self._call("batched_put", self._connector.batched_put(batch, objs), len(batch))
            seconds += took
            self._put_bytes(kind, len(batch))
        return seconds

    async def _get_in_batches(
        self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int, tally: Tally
    ) -> float:
        """Returns the seconds of all batches together."""
        seconds = 0.0
        for batch in kind.batches(keys):
            scrub(self._backend)
            found, took = await self._call("batched_get", self._connector.batched_get(batch), len(batch))
            seconds += took
            await self.findings.examine(kind, batch, found, generation, tally)
        return seconds

    async def _get_with_a_gap(
        self,
        kind: ChunkKind,
        keys: Sequence[CacheEngineKey],
        absent: CacheEngineKey,
        generation: int,
        tally: Tally,
    ) -> None:
        """Checks that a missing key is a miss: alone, and in a batch, where the other chunks keep their slots."""
        wanted = [keys[0], absent, keys[-1]]
        await self.findings.examine(kind, [absent], [await self._connector.get(absent)], generation, tally, absent)
        await self.findings.examine(kind, wanted, await self._connector.batched_get(wanted), generation, tally, absent)

    async def _remove(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], tally: Tally) -> None:
        self._on_progress(f"removing: {kind.name}", 0)
        for key in keys:
            removed = await self._written.remove(key)
            self.findings.check(removed, kind, "remove says that a chunk that was put is not there")
            self.keys_removed += removed
        self.findings.check(not any(await self._connector.batched_exists(keys)), kind, "removed chunks are still there")
        await self.findings.examine(kind, [keys[0]], [await self._connector.get(keys[0])], 0, tally, keys[0])

    # --------------------------------------------------------------------------------------------- parts of steps

    @contextmanager
    def _filled(self, kind: ChunkKind, keys: Sequence[CacheEngineKey], generation: int) -> Iterator[list[MemoryObj]]:
        """A chunk with its pattern for each key, valid in the `with` block."""
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

    def _put_bytes(self, kind: ChunkKind, chunks: int) -> None:
        self.bytes_put += chunks * kind.chunk.nbytes
        self._on_progress(f"putting: {kind.name}", chunks * kind.chunk.nbytes)
