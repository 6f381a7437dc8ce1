"""`Keeper`: the only writer of its keys, which knows what each must hold."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from lmcache_connect import LocalCPUBackend, MemoryObj
from lmcache_connect.errors import ArenaExhaustedError
from lmcache_connect.testing import Book, StampedValue, Version, WrongValueError

from .caller import Caller, release
from .own_memory import MOST_BYTES, OwnMemory


class Keeper:
    """Puts, gets and removes keys of its own. After each acknowledged change the store must agree.

    `stray` is how long after a failed call its bytes may still arrive, in seconds. `largest` bounds a chunk's size.
    `may_be_gone(key, since)` tells whether the store has lost a key that it had at the monotonic time `since`.
    """

    def __init__(
        self,
        caller: Caller,
        backend: LocalCPUBackend,
        rng: random.Random,
        name: str,
        stray: float,
        largest: int,
        may_be_gone: Callable[[str, float], bool] = lambda key, since: False,
    ) -> None:
        self._caller = caller
        self._backend = backend
        self._rng = rng
        self._largest = largest
        self._writer = rng.getrandbits(64)
        self._version = 0
        self.keys: Final = own_keys(name)
        """The keys that nobody else writes."""
        self._may_be_gone = may_be_gone
        self._changing = dict.fromkeys(self.keys, 0.0)  # when the last acknowledged change began
        self._sizes: dict[int, int] = {}  # of the values that may still be there, by version
        self._own = OwnMemory(caller, rng, end_after)
        self._books = {key: Book(stray, echoes=caller.store == "cut") for key in self.keys}

    async def step(self) -> None:
        """Does one thing, chosen at random, and checks what it can."""
        rng = self._rng
        self._own.check()
        some = rng.sample(self.keys, rng.randint(2, len(self.keys)))
        in_its_own = rng.random() < 0.4
        match rng.choices(("put", "put_some", "get", "get_some", "remove", "remove_some"), (40, 10, 25, 12, 8, 5))[0]:
            case "put":
                await (self._put_from(some[:1]) if in_its_own else self._put(some[:1]))
            case "put_some":
                await (self._put_from(some) if in_its_own else self._put(some))
            case "get":
                await (self._get_into(some[:1]) if in_its_own else self._get(some[0]))
            case "get_some":
                await (self._get_into(some) if in_its_own else self._get_some(some))
            case "remove":
                await self._remove(some[:1])
            case _:
                await self._remove(some)

    async def _put(self, keys: list[str]) -> None:
        rng = self._rng
        objs: list[MemoryObj] = []
        try:
            values = self._new_values(keys, self._largest)
            for value in values:
                objs.append(obj := await self._backend.allocate_async((value.nbytes,), "uint8", timeout=5))
                await value.fill(obj.byte_array)
            early = end_after(rng)
            begun = time.monotonic()
            if len(keys) == 1:
                put = await self._caller.call("put", keys[0], objs[0], end_after=early)
            else:
                put = await self._caller.call("batched_put", keys, objs, end_after=early)
            for obj in objs:
                obj.byte_array[:64] = bytes(64)  # nothing may be sent from here once the call has ended
        except ArenaExhaustedError:
            self._caller.journal.count("waited in vain for memory")
            return
        finally:
            release(objs)
        for value in values:
            self._note(value, put.ok, begun)
        if put.ok and rng.random() < 0.5:
            await self._get(rng.choice(keys))

    async def _put_from(self, keys: list[str]) -> None:
        """Puts from memory of its own. Each key has an answer."""
        begun = time.monotonic()
        values = self._new_values(keys, min(self._largest, MOST_BYTES))
        flags = await self._own.put(values)
        for value, flag in zip(values, flags, strict=True):
            self._note(value, flag, begun)
        if all(flags) and self._rng.random() < 0.5:
            await self._get_into([self._rng.choice(keys)])

    async def _get_into(self, keys: list[str]) -> None:
        """Gets into memory of its own, with the size of the value that must be there."""
        sizes = [self._sizes.get(self._books[key].certain or 0, StampedValue.LEAST_BYTES) for key in keys]
        if max(sizes) > MOST_BYTES:
            await self._get(keys[0])
            return
        found = await self._own.get(keys, sizes)
        for key, value, nbytes in zip(keys, found or (), sizes, strict=found is not None):
            if value is not None:
                self._judge_value(key, value)
            else:
                self._judge_miss(key, nbytes)

    def _judge_miss(self, key: str, nbytes: int) -> None:
        """A miss of a get into memory of so many bytes: there is nothing, or a value of another length."""
        self._excuse(key)
        answers = self._books[key].answers()
        if all(version is not None and self._sizes[version] == nbytes for version in answers):
            self._caller.journal.violate(
                f"{self._caller.store} {key}: LOST: not there with {nbytes} bytes; expected one of {answers}"
            )

    def _new_values(self, keys: list[str], largest: int) -> list[StampedValue]:
        """A new value for each key: smaller ones where they are several, which fit the memory together."""
        values: list[StampedValue] = []
        for key in keys:
            self._version += 1
            nbytes = StampedValue.random_size(self._rng, largest if len(keys) == 1 else largest // 4)
            values.append(StampedValue.new(key, self._writer, self._version, nbytes))
        return values

    def _note(self, value: StampedValue, is_stored: bool, begun: float) -> None:
        """Notes that a put of this value, which began at `begun`, was acknowledged, or has failed."""
        book = self._books[value.key]
        self._sizes[value.version] = value.nbytes
        if is_stored:
            book.acknowledged(value.version)
            self._changing[value.key] = begun
        else:
            book.failed(value.version)

    async def _get(self, key: str) -> None:
        got = await self._caller.call("get", key, end_after=end_after(self._rng))
        if not got.ok:
            return
        is_there = got.value is not None
        await self._check(key, got.value)
        exists = await self._caller.call("exists", key)
        if not exists.ok or exists.value is is_there:
            return
        if not exists.value:
            self._excuse(key)
        if len(self._books[key].answers()) == 1:
            self._caller.journal.violate(
                f"{self._caller.store} {key}: exists says {exists.value}, but get found {is_there}: nobody writes"
            )

    async def _get_some(self, keys: list[str]) -> None:
        rng = self._rng
        wanted = [*keys, f"{keys[0]}/never"]
        rng.shuffle(wanted)
        got = await self._caller.call("batched_get", wanted, end_after=end_after(rng))
        if not got.ok:
            return
        if len(got.value) != len(wanted):
            self._caller.journal.violate(
                f"{self._caller.store} batched_get: {len(got.value)} slots for {len(wanted)} keys"
            )
        for key, found in zip(wanted, got.value, strict=False):
            obj = found
            if key in self._books:
                if obj is None and not self._excuse(key) and None not in self._books[key].answers():
                    # A batch that finds no room gives the prefix that fits. Alone, a chunk waits for room or raises.
                    again = await self._caller.call("get", key)
                    if not again.ok:
                        continue
                    self._caller.journal.count("missing in a batch, asked for alone")
                    obj = again.value
                await self._check(key, obj)
            elif obj is not None:
                self._caller.journal.violate(f"{self._caller.store} {key}: found, but nobody has put it")
                obj.ref_count_down()

    async def _remove(self, keys: list[str]) -> None:
        early = end_after(self._rng)
        if len(keys) == 1:
            removed = await self._caller.call("remove", keys[0], end_after=early)
        else:
            removed = await self._caller.call("batched_remove", keys, end_after=early)
        for key in keys:
            if removed.ok:
                self._books[key].acknowledged(None)
            else:
                self._books[key].failed(None)

    async def _check(self, key: str, obj: MemoryObj | None) -> None:
        if obj is None:
            self._excuse(key)
            self._judge(key, None)
            return
        try:
            value = await StampedValue.read(key, obj.byte_array)
        except WrongValueError as error:
            self._caller.journal.violate(f"{self._caller.store} {key}: WRONG VALUE: {error}")
            return
        finally:
            obj.ref_count_down()
        self._judge_value(key, value)

    def _judge_value(self, key: str, value: StampedValue) -> None:
        store, journal = self._caller.store, self._caller.journal
        journal.count("values verified")
        journal.count("bytes verified", value.nbytes)
        if value.writer != self._writer:
            journal.violate(f"{store} {key}: WRONG VALUE: of writer {value.writer:x}, not of {self._writer:x}")
            return
        self._judge(key, value.version)

    def _judge(self, key: str, version: Version) -> None:
        expected = self._books[key].answers()
        if version not in expected:
            kind = "LOST" if version is None else "STALE"
            self._caller.journal.violate(
                f"{self._caller.store} {key}: {kind}: found version {version}; expected one of {expected}"
            )

    def _excuse(self, key: str) -> bool:
        """Whether the store has lost the key since it was put. Then it may be missing from now on."""
        if not self._may_be_gone(key, self._changing[key]):
            return False
        self._books[key].failed(None)
        return True


def own_keys(name: str) -> list[str]:
    """The keys of the keeper of this name."""
    return [f"own/{name}/{number}" for number in range(4)]


def end_after(rng: random.Random) -> float | None:
    """After how many seconds a call is ended early; mostly not at all."""
    return None if rng.random() > 0.25 else 0.0003 * 3000.0 ** rng.random()
