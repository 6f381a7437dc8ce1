"""`Roamer`: reads or writes keys that every process writes, and checks that each value is whole and of its key."""

from __future__ import annotations

import random
from typing import Final

from lmcache_connect import LocalCPUBackend, MemoryObj
from lmcache_connect.errors import ArenaExhaustedError
from lmcache_connect.testing import StampedValue, WrongValueError

from .caller import SETTINGS, Caller, release
from .keeper import end_after
from .own_memory import MOST_BYTES, OwnMemory

SHARED_KEYS: Final = tuple(f"shared/{number}" for number in range(10))
TTL: Final = 1.0
"""Seconds that a chunk of the store `brief` lives."""


class Roamer:
    """One of many on the same keys. `writes` is the share of its calls that change the store."""

    def __init__(
        self, caller: Caller, backend: LocalCPUBackend, rng: random.Random, writes: float, largest: int
    ) -> None:
        self._caller = caller
        self._backend = backend
        self._rng = rng
        self._writes = writes
        self._largest = largest
        self._writer = rng.getrandbits(64)
        self._version = 0
        self._own = OwnMemory(caller, rng, end_after)
        self._sizes = dict.fromkeys(
            SHARED_KEYS, StampedValue.LEAST_BYTES
        )  # of the last value that this one has put or seen

    async def step(self) -> None:
        """Does one thing, chosen at random, and checks what it can."""
        rng = self._rng
        self._own.check()
        keys = rng.sample(SHARED_KEYS, rng.randint(1, 4))
        in_its_own = rng.random() < 0.4
        if rng.random() < self._writes:
            if rng.random() < 0.85:
                await (self._put_from(keys) if in_its_own else self._put(keys))
            elif len(keys) == 1:
                await self._caller.call("remove", keys[0], end_after=end_after(rng))
            else:
                await self._caller.call("batched_remove", keys, end_after=end_after(rng))
        elif rng.random() < 0.1:
            await self._caller.call("batched_exists", keys, end_after=end_after(rng))
        elif in_its_own:
            await self._get_into(keys)
        else:
            await self._get(keys)

    async def _put(self, keys: list[str]) -> None:
        rng = self._rng
        largest = self._largest if len(keys) == 1 else self._largest // 4
        objs: list[MemoryObj] = []
        try:
            for key in keys:
                self._version += 1
                nbytes = StampedValue.random_size(rng, largest)
                objs.append(obj := await self._backend.allocate_async((nbytes,), "uint8", timeout=5))
                await StampedValue.new(key, self._writer, self._version, nbytes).fill(obj.byte_array)
            if len(keys) == 1:
                await self._caller.call("put", keys[0], objs[0], end_after=end_after(rng))
            else:
                await self._caller.call("batched_put", keys, objs, end_after=end_after(rng))
            for obj in objs:
                obj.byte_array[:64] = bytes(64)  # nothing may be sent from here once the call has ended
        except ArenaExhaustedError:
            self._caller.journal.count("waited in vain for memory")
        finally:
            release(objs)

    async def _put_from(self, keys: list[str]) -> None:
        largest = min(self._largest if len(keys) == 1 else self._largest // 4, MOST_BYTES)
        values: list[StampedValue] = []
        for key in keys:
            self._version += 1
            values.append(
                StampedValue.new(key, self._writer, self._version, StampedValue.random_size(self._rng, largest))
            )
        await self._own.put(values)
        self._sizes.update({value.key: value.nbytes for value in values})

    async def _get_into(self, keys: list[str]) -> None:
        found = await self._own.get(keys, [min(self._sizes[key], MOST_BYTES) for key in keys])
        for value in found or ():
            if value is not None:
                self._judge(value)

    async def _get(self, keys: list[str]) -> None:
        rng = self._rng
        if len(keys) == 1:
            got = await self._caller.call("get", keys[0], end_after=end_after(rng))
            found = [got.value] if got.ok else []
        else:
            keys = [*keys, "shared/never"]
            rng.shuffle(keys)
            got = await self._caller.call("batched_get", keys, end_after=end_after(rng))
            found = got.value if got.ok else []
        for key, obj in zip(keys, found, strict=got.ok):
            if obj is not None:
                await self._check(key, obj)

    async def _check(self, key: str, obj: MemoryObj) -> None:
        store, journal = self._caller.store, self._caller.journal
        try:
            value = await StampedValue.read(key, obj.byte_array)
        except WrongValueError as error:
            journal.violate(f"{store} {key}: WRONG VALUE: {error}")
            return
        finally:
            obj.ref_count_down()
        self._judge(value)

    def _judge(self, value: StampedValue) -> None:
        store, journal, key = self._caller.store, self._caller.journal, value.key
        self._sizes[key] = value.nbytes
        journal.count("values verified")
        journal.count("bytes verified", value.nbytes)
        # A value is made, then put, then kept for a second, then fetched. Each call may take until its deadline.
        most = TTL + 2 * SETTINGS.operation_timeout + 10
        if store == "brief" and value.age > most:
            journal.violate(f"{store} {key}: a value {value.age:.1f} s old, with a ttl of {TTL:g} s")
