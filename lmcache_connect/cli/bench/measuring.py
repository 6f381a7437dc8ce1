"""`Measuring`: makes the calls of one load on one store, times each, and compares what comes back."""

from __future__ import annotations

import random
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from ...contract import gather
from ...keys import CacheEngineKey
from ...managed import ManagedConnector
from ...memory import LocalCPUBackend, MemoryObj
from ..frame.own_keys import OwnKeys
from .plan import LOOKED_UP, Load, Mode

_TOKEN_BYTES: Final = 512
_STAMP: Final = struct.Struct("<QQ")
_PIECE: Final = 64 << 10
_WARM_BYTES: Final = 32 << 20
"""A load of more bytes at a time is measured cold: its first calls are long beside the connecting."""


@dataclass
class Samples:
    """What calls took: `latencies` of each in seconds, all of them together, and CPU seconds of this process."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    keys: int = 0
    nbytes: int = 0


class Measuring:
    """The calls on one store. Every chunk has a stamp of its key at its beginning and at its end, which is compared."""

    def __init__(
        self, connector: ManagedConnector, backend: LocalCPUBackend, keys: OwnKeys, cell_seconds: float
    ) -> None:
        """`cell_seconds`: after how long no further call of a measurement begins."""
        self.connector: Final = connector
        self.keys: Final = keys
        self._backend: Final = backend
        self._cell_seconds: Final = cell_seconds
        self.problems: Final[Counter[str]] = Counter()
        """What came back wrong, by its text."""
        self.verified = 0
        """How many chunks came back right."""
        self._generation = 0

    async def warm_up(self, load: Load) -> None:
        """Has the connections opened that a load uses, where that costs little. Nothing is measured."""
        if load.memory <= _WARM_BYTES:
            each = max(load.mode.concurrency, load.mode.batch)
            await self.put(load, each)
            await self.get(load, each)

    async def put(self, load: Load, chunks: int) -> Samples:
        """Puts so many chunks."""
        self._generation += 1
        width = max(load.mode.concurrency, load.mode.batch)
        objs = [self._filled(load.nbytes) for _ in range(width)]
        try:

            async def batch(numbers: Sequence[int], _: int) -> None:
                for number, obj in zip(numbers, objs, strict=True):
                    self._stamp(obj, number)
                await self.connector.batched_put([self.keys.key(number) for number in numbers], objs)

            async def single(numbers: Sequence[int], worker: int) -> None:
                self._stamp(objs[worker], numbers[0])
                await self.connector.put(self.keys.key(numbers[0]), objs[worker])

            call = batch if load.mode.batch > 1 else single
            return await self._run(load.mode, _numbers(load, chunks), call, load.nbytes)
        finally:
            for obj in objs:
                obj.ref_count_down()

    async def get(self, load: Load, chunks: int) -> Samples:
        """Gets so many chunks that were put before, and compares them."""

        async def batch(numbers: Sequence[int], _: int) -> None:
            found = await self.connector.batched_get([self.keys.key(number) for number in numbers])
            for number, each in zip(numbers, found, strict=True):
                self._compare(each, number, load.nbytes)

        async def single(numbers: Sequence[int], _: int) -> None:
            self._compare(await self.connector.get(self.keys.key(numbers[0])), numbers[0], load.nbytes)

        call = batch if load.mode.batch > 1 else single
        return await self._run(load.mode, _numbers(load, chunks), call, load.nbytes)

    async def exists(self, mode: Mode, written: int) -> Samples:
        """Looks keys up, every other one of which is there."""

        def key(number: int) -> tuple[CacheEngineKey, bool]:
            if number % 2:
                return self.keys.absent(1_000_000 + number), False
            return self.keys.key(number // 2 % written), True

        async def call(numbers: Sequence[int], _: int) -> None:
            asked = [key(number) for number in numbers]
            if mode.batch > 1:
                told = list(await self.connector.batched_exists([each for each, _ in asked]))
            else:
                told = [await self.connector.exists(asked[0][0])]
            wrong = sum(said is not expected for said, (_, expected) in zip(told, asked, strict=True))
            if wrong:
                self.problems["a look-up was wrong"] += wrong

        count = max(LOOKED_UP, 4 * mode.batch, 8 * mode.concurrency)
        return await self._run(mode, _parts(range(count), mode.batch), call, 0)

    async def _run(
        self,
        mode: Mode,
        parts: Iterator[Sequence[int]],
        call: Callable[[Sequence[int], int], Awaitable[None]],
        nbytes: int,
    ) -> Samples:
        samples = Samples()
        ends = time.perf_counter() + self._cell_seconds

        async def work(worker: int) -> None:
            for numbers in parts:
                began = time.perf_counter()
                if began >= ends and samples.latencies:
                    return
                await call(numbers, worker)
                samples.latencies.append(time.perf_counter() - began)
                samples.keys += len(numbers)
                samples.nbytes += nbytes * len(numbers)

        cpu, started = time.process_time(), time.perf_counter()
        await gather([partial(work, worker) for worker in range(mode.concurrency)], mode.concurrency)
        samples.seconds, samples.cpu = time.perf_counter() - started, time.process_time() - cpu
        return samples

    # ------------------------------------------------------------------------------------------------------ chunks

    def _filled(self, nbytes: int) -> MemoryObj:
        shape = (2, 1, nbytes // _TOKEN_BYTES, _TOKEN_BYTES // 4)
        obj = self._backend.allocate(shape, "bfloat16")
        assert obj is not None  # noqa: S101  # the arena was made for as many
        view, piece = obj.byte_array, random.randbytes(min(nbytes, _PIECE))
        for start in range(0, nbytes, _PIECE):
            view[start : start + _PIECE] = piece[: nbytes - start]
        return obj

    def _stamp(self, obj: MemoryObj, number: int) -> None:
        view = obj.byte_array
        view[: _STAMP.size] = view[-_STAMP.size :] = _STAMP.pack(number, self._generation)

    def _compare(self, found: MemoryObj | None, number: int, nbytes: int) -> None:
        if found is None:
            self.problems["a chunk that was put is a miss"] += 1
            return
        with found:
            view = found.byte_array
            stamps = {bytes(view[: _STAMP.size]), bytes(view[-_STAMP.size :])}
            right = len(view) == nbytes and len(stamps) == 1 and _STAMP.unpack(stamps.pop())[0] == number
        if right:
            self.verified += 1
        else:
            self.problems["a chunk came back with other bytes"] += 1


def _numbers(load: Load, chunks: int) -> Iterator[Sequence[int]]:
    """Yields the numbers of the keys of each call, over and over."""
    return _parts([at % load.keys for at in range(chunks)], load.mode.batch)


def _parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return iter([numbers[start : start + size] for start in range(0, len(numbers), size)])
