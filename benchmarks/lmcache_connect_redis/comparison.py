"""`Comparison`: all contenders on one server, interleaved. Every chunk that is read is compared with what was put."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from lmcache_connect import LocalCPUBackend
from lmcache_connect.memory import release_all
from lmcache_connect.testing.loop_watch import LoopWatch

from .contenders.connect import Connect
from .contenders.contender import Contender, MissingContenderError
from .floor import FloorClient
from .measurement import Clock, Samples, stolen_seconds

KIB: Final = 1 << 10
MIB: Final = 1 << 20
BATCHES: Final = {128 * KIB: 512, MIB: 128, 4 * MIB: 32, 32 * MIB: 8}
"""Chunk size in bytes -> chunks in a batch."""
LOOK_UPS: Final = 1000
SINGLES: Final = 25
"""Gets of one chunk in a round."""
FLOOR: Final = "bare sockets"


class WrongDataError(Exception):
    """A contender returned other bytes than were put, or found other keys."""


class Comparison:
    """One server, over one transport. `databases` gives a URL by database number: one for each contender."""

    def __init__(
        self,
        contenders: Sequence[type[Contender]],
        databases: Callable[[int], str],
        floor: FloorClient,
        log: Callable[[str], None],
    ) -> None:
        self.samples = Samples()
        self.missing: dict[str, str] = {}
        """The reason for each contender that did not take part, by name."""
        self._kinds = list(contenders)
        self._databases = databases
        self._floor = floor
        self._log = log

    async def run(self, chunk_bytes: int, chunks: int, rounds: int) -> None:
        """Runs `rounds` rounds with one chunk size, after one that does not count, in which memory is touched first."""
        contenders = await self._open(chunk_bytes, chunks)
        counted = self.samples
        room = chunks * (chunk_bytes + (64 << 10))
        try:
            with LocalCPUBackend(room, prefault=True) as backend:
                bare = backend.batched_allocate((chunk_bytes,), "uint8", chunks)
                if bare is None:
                    raise MemoryError(f"the arena has no room for {chunks} chunks of {chunk_bytes} bytes")
                try:
                    for number in range(rounds + 1):
                        self._log(f"{chunks} x {chunk_bytes >> 10} KiB: round {number} of {rounds}")
                        self.samples = counted if number else Samples()
                        order = contenders if number % 2 else contenders[::-1]
                        self._floor_round(chunk_bytes, [obj.byte_array for obj in bare])
                        await self._round(order, chunk_bytes, chunks, number)
                        if chunk_bytes == min(BATCHES):
                            for contender in order:
                                await self._look_ups(contender)
                finally:
                    release_all(list(bare))
            for contender in contenders:
                await self._loop_gap(contender, chunk_bytes, chunks)
        finally:
            self.samples = counted
            for contender in contenders:
                await contender.close()

    async def _open(self, chunk_bytes: int, chunks: int) -> list[Contender]:
        contenders: list[Contender] = []
        for number, kind in enumerate(self._kinds, 1):
            if kind.name in self.missing:
                continue
            contender = kind()
            # A database for each, so that no contender replaces the values of another.
            database = number if kind.database is None else kind.database
            try:
                await contender.open(self._databases(database), chunk_bytes, chunks)
            except MissingContenderError as why:
                self.missing[kind.name] = str(why)
                self._log(f"left out: {kind.name}: {why}")
            else:
                contenders.append(contender)
        return contenders

    def _floor_round(self, chunk_bytes: int, chunks: list[memoryview]) -> None:
        for verb, move in (("get", self._floor.get), ("put", self._floor.put)):
            moved = move(chunks)
            self.samples.transfer(verb, chunk_bytes, FLOOR, moved.nbytes, moved.wall, moved.cpu)

    async def _round(self, contenders: Sequence[Contender], chunk_bytes: int, chunks: int, number: int) -> None:
        payloads = [_payload(f"{number}-{index}", chunk_bytes) for index in range(chunks)]
        keys = _keys("bench", chunks)
        nbytes = chunk_bytes * chunks
        for contender in contenders:
            contender.stage(payloads)
        for contender in contenders:
            clock = Clock()
            with clock.running():
                await contender.put(keys)
            self.samples.transfer("put", chunk_bytes, contender.name, nbytes, clock.wall, clock.cpu)
        for contender in contenders:
            clock = Clock()
            with clock.running():
                await contender.get(keys)
            self.samples.transfer("get", chunk_bytes, contender.name, nbytes, clock.wall, clock.cpu)
            _verify(contender, payloads)
        for single in range(min(SINGLES, chunks)):
            for contender in contenders:
                clock = Clock()
                with clock.running():
                    await contender.get_one(keys[single])
                self.samples.note("one get ms", chunk_bytes, contender.name, clock.wall * 1e3)
                _verify(contender, [payloads[single]])

    async def _look_ups(self, contender: Contender) -> None:
        # Every second key is there: those of the batch that was just put, between ones that nobody has.
        present, absent = _keys("bench", LOOK_UPS // 2), _keys("absent", LOOK_UPS // 2)
        keys = [key for pair in zip(present, absent, strict=True) for key in pair]
        clock = Clock()
        with clock.running():
            found = await contender.exists(keys)
        if list(found) != [True, False] * (LOOK_UPS // 2):
            raise WrongDataError(f"{contender.name} found {sum(found)} keys of {LOOK_UPS // 2}, or other ones")
        self.samples.note("exists k keys/s", 0, contender.name, LOOK_UPS / clock.wall / 1e3)

    async def _loop_gap(self, contender: Contender, chunk_bytes: int, chunks: int) -> None:
        # Apart from the rounds, because reading the clock costs time too.
        keys = _keys("bench", chunks)
        for verb, work in (("put", contender.put), ("get", contender.get)):
            async with LoopWatch() as watch:
                await work(keys)
            contender.release()
            self.samples.note(f"{verb} longest loop gap ms", chunk_bytes, contender.name, watch.longest * 1e3)


async def streaming_gaps(url: str, seconds: float) -> dict[str, float]:
    """Milliseconds between turns of the event loop while 32 MiB chunks stream both ways at full speed.

    The garbage collector ignores existing objects, as in a server after its start: a full collection of the imported
    modules takes 20 to 30 ms. `longest_unstolen_ms` leaves out gaps in
    which the hypervisor took a CPU away.
    """
    contender = Connect()
    gc.collect()
    gc.freeze()
    await contender.open(url, 32 * MIB, 4)
    try:
        contender.stage([_payload(str(index), 32 * MIB) for index in range(4)])
        keys = _keys("gap", 4)
        await contender.put(keys)
        connector, ends = contender.connector, time.monotonic() + seconds
        objs = contender.staged

        async def put(index: int) -> None:
            while time.monotonic() < ends:
                await connector.put(keys[index], objs[index])

        async def get(index: int) -> None:
            while time.monotonic() < ends:
                release_all([await connector.get(keys[index])])

        async with LoopWatch(beside=stolen_seconds) as watch:
            await asyncio.gather(put(0), put(1), get(2), get(3))
    finally:
        gc.unfreeze()
        await contender.close()
    return {
        "p50_ms": watch.percentile(50) * 1e3,
        "p99_ms": watch.percentile(99) * 1e3,
        "longest_ms": watch.longest * 1e3,
        "longest_unstolen_ms": 1e3
        * max(gap for gap, stolen in zip(watch.gaps, watch.grown, strict=True) if not stolen),
        "gaps": len(watch.gaps),
    }


def batches(sizes: Sequence[int]) -> dict[int, int]:
    """Chunks in a batch, by chunk size."""
    return {size: BATCHES[size] for size in sizes}


def _keys(model: str, count: int) -> list[str]:
    return [f"{model}@1@0@{index:x}@uint8" for index in range(count)]


def _payload(seed: str, nbytes: int) -> bytes:
    block = Random(seed).randbytes(64 * KIB)
    return block * (nbytes // len(block))


def _verify(contender: Contender, payloads: Sequence[Any]) -> None:
    received = contender.received()
    if len(received) != len(payloads):
        raise WrongDataError(f"{contender.name} got {len(received)} chunks of {len(payloads)}")
    for chunk, payload in zip(received, payloads, strict=True):
        if chunk is None or chunk != payload:
            raise WrongDataError(f"{contender.name} read something else than was written")
    contender.release()
