"""`Worker`: one of the tasks of the load. It puts, gets and removes keys of its own, and verifies what it finds."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ...config import ConnectorConfig
from ...errors import ArenaExhaustedError, ConnectorFailureError, StoreError
from ...managed import ManagedConnector
from ...memory import LocalCPUBackend, MemoryObj
from ...testing import Book, GuardedMemory, LagWatch, StampedValue, WatchedCall, WrongValueError, watch_call
from .budget import Budget
from .deck import Deck
from .history import History
from .rates import Rates
from .tally import Tally

KEYS: Final = 8
"""Keys of one worker."""

SLACK: Final = 0.5
"""Seconds after its deadline that a call may end, and seconds that a cancelled one may take to end."""

_STEPS: Final = (
    *["put"] * 12,
    *["put_from"] * 6,
    *["get"] * 14,
    *["get_into"] * 8,
    *["batched_put"] * 3,
    *["batched_put_from"] * 2,
    *["batched_get"] * 5,
    *["batched_get_into"] * 3,
    *["exists"] * 4,
    *["batched_exists"] * 2,
    *["remove"] * 2,
    *["batched_remove"] * 1,
)

_STRAY: Final = 10.0
"""Seconds for which the bytes of a call that failed, or of its first attempt, may still arrive."""

_CANCELLED: Final = 0.04
"""The share of calls that are cancelled."""

_OWN_MEMORY: Final = 8 << 20
"""The largest chunk that goes through memory of the caller."""

_PAUSE: Final = 0.02
"""Seconds after a call that failed at once, as with an open circuit breaker. The loop has other things to do."""

_WATCHED: Final = 4


@dataclass(frozen=True)
class Field:
    """What all workers of a run share. `largest` is the largest chunk, in bytes."""

    connector: ManagedConnector
    backend: LocalCPUBackend
    config: ConnectorConfig
    lag: LagWatch
    tally: Tally
    rates: Rates
    budget: Budget
    history: History
    largest: int
    echoes: bool
    stop: asyncio.Event


class Worker:
    """The only writer of its keys, so that it knows what each of them may hold."""

    def __init__(self, field: Field, prefix: str, number: int, seed: int) -> None:
        self._field = field
        self._rng = random.Random(f"{seed}/{number}")
        self._writer = self._rng.getrandbits(64)
        self.keys: Final = tuple(f"{prefix}/{number}/{key}" for key in range(KEYS))
        """The keys that nobody else writes."""
        self._books = {key: Book(_STRAY, echoes=field.echoes) for key in self.keys}
        self._changed = dict.fromkeys(self.keys, 0.0)  # when the last acknowledged change began
        self._sizes: dict[int, int] = {}  # of the values that may still be there, by version
        self._version = 0
        self._steps = Deck(_STEPS, self._rng)
        self._shares = Deck([(number + 0.5) / 20 for number in range(20)], self._rng)
        self._ended: deque[tuple[float, GuardedMemory]] = deque()

    async def run(self) -> None:
        """Works until the run is stopped."""
        while not self._field.stop.is_set():
            self._check_memory()
            step = self._steps.draw()
            some = self._rng.sample(self.keys, self._rng.randint(2, 4) if step.startswith("batched_") else 1)
            begun = time.monotonic()
            try:
                await self._do(step, some)
            except ArenaExhaustedError:
                self._field.tally.errors["ArenaExhaustedError"] += 1
            except Exception as error:
                self._field.tally.found_unexplained(f"{step}: {type(error).__name__}: {error}")
            if time.monotonic() - begun < _PAUSE / 10:
                await asyncio.sleep(_PAUSE)
            else:
                await asyncio.sleep(0)

    async def _do(self, step: str, keys: list[str]) -> None:
        match step.removeprefix("batched_"):
            case "put":
                await self._put(step, keys)
            case "put_from":
                await self._put_from(step, keys)
            case "get":
                await self._get(step, keys)
            case "get_into":
                await self._get_into(step, keys)
            case "exists":
                await self._exists(step, keys)
            case _:
                await self._remove(step, keys)

    # ------------------------------------------------------------------------------------------------ changes

    async def _put(self, step: str, keys: list[str]) -> None:
        objs: list[MemoryObj] = []
        try:
            values = self._new_values(keys, self._field.largest)
            for value in values:
                obj = await self._field.backend.allocate_async((value.nbytes,), "uint8", timeout=30)
                objs.append(obj)
                await value.fill(obj.byte_array)
            begun = time.monotonic()
            given = (keys[0], objs[0]) if step == "put" else (keys, objs)
            call = await self._call(step, *given, nbytes=sum(value.nbytes for value in values))
            for obj in objs:
                obj.byte_array[:64] = bytes(64)  # nothing may be sent from here once the call has ended
        finally:
            _release(objs)
        for value in values:
            self._note_put(value, call.ok, begun)

    async def _put_from(self, step: str, keys: list[str]) -> None:
        values = self._new_values(keys, min(_OWN_MEMORY, self._field.largest))
        memory = [GuardedMemory(self._rng, value.nbytes) for value in values]
        for value, room in zip(values, memory, strict=True):
            await room.fill(value)
        begun = time.monotonic()
        views: list[Any] = [room.views for room in memory]
        given = (keys[0], views[0]) if step == "put_from" else (keys, views)
        call = await self._call(step, *given, nbytes=sum(value.nbytes for value in values))
        self._end(memory, call)
        for value, stored in zip(values, self._flags(call, keys), strict=True):
            self._note_put(value, stored, begun)

    async def _remove(self, step: str, keys: list[str]) -> None:
        begun = time.monotonic()
        call = await self._call(step, keys[0] if step == "remove" else keys)
        for key in keys:
            if call.ok:
                self._books[key].acknowledged(None)
                self._changed[key] = begun
                self._field.budget.holds(key, 0)
            else:
                self._books[key].failed(None)

    def _new_values(self, keys: Sequence[str], largest: int) -> list[StampedValue]:
        values: list[StampedValue] = []
        for key in keys:
            self._version += 1
            # From 1 KiB to the largest, every doubling as often as any other; of a batch, less.
            most = largest if len(keys) == 1 else max(StampedValue.LEAST_BYTES, largest // 4)
            share = self._shares.draw() + self._rng.uniform(-0.02, 0.02)
            wanted = int(StampedValue.LEAST_BYTES * (most / StampedValue.LEAST_BYTES) ** min(1.0, share))
            nbytes = self._field.budget.fit(key, wanted, StampedValue.LEAST_BYTES)
            values.append(StampedValue.new(key, self._writer, self._version, nbytes))
            self._sizes[self._version] = nbytes
        if len(self._sizes) > 1000:
            known = {version for book in self._books.values() for version in book.answers()}
            self._sizes = {version: size for version, size in self._sizes.items() if version in known}
        return values

    def _note_put(self, value: StampedValue, is_stored: bool, begun: float) -> None:
        if is_stored:
            self._books[value.key].acknowledged(value.version)
            self._changed[value.key] = begun
            self._field.budget.holds(value.key, value.nbytes)
        else:
            self._books[value.key].failed(value.version)

    # -------------------------------------------------------------------------------------------------- looks

    async def _get(self, step: str, keys: list[str]) -> None:
        call = await self._call(step, keys[0] if step == "get" else keys)
        if not call.ok:
            return
        found = [call.value] if step == "get" else call.value
        nbytes = 0
        try:
            for key, obj in zip(keys, found, strict=True):
                nbytes += obj.get_size() if obj is not None else 0
                if obj is None and step != "get" and None not in self._books[key].answers():
                    await self._get("get", [key])  # a batch for which the arena has no room gives the prefix that fits
                else:
                    await self._check(key, obj)
        except ValueError:
            self._field.tally.found_wrong(f"{step}: {len(found)} answers for {len(keys)} keys")
        finally:
            _release(found)
        self._field.rates.add(call.begun, call.ended, nbytes)

    async def _get_into(self, step: str, keys: list[str]) -> None:
        sizes = [
            min(_OWN_MEMORY, self._sizes.get(self._books[key].certain or 0, StampedValue.LEAST_BYTES)) for key in keys
        ]
        memory = [GuardedMemory(self._rng, nbytes) for nbytes in sizes]
        views: list[Any] = [room.views for room in memory]
        call = await self._call(step, *((keys[0], views[0]) if step == "get_into" else (keys, views)))
        nbytes = 0
        for key, room, is_there in zip(keys, memory, self._flags(call, keys), strict=True):
            if is_there:
                nbytes += room.nbytes
                try:
                    self._judge(key, await room.read(key))
                except WrongValueError as error:
                    self._field.tally.found_wrong(f"{key}, in memory of the caller: {error}")
        self._end(memory, call)
        if call.ok:
            self._field.rates.add(call.begun, call.ended, nbytes)

    async def _exists(self, step: str, keys: list[str]) -> None:
        call = await self._call(step, keys[0] if step == "exists" else keys)
        if not call.ok:
            return
        for key, is_there in zip(keys, [call.value] if step == "exists" else call.value, strict=True):
            answers = self._books[key].answers()
            if is_there and answers == {None} and not self._field.history.may_be_older(self._changed[key]):
                self._field.tally.found_wrong(f"{key}: exists is True, and nobody has put it")
            elif not is_there:
                self._judge_absence(key, "exists is False")

    async def _check(self, key: str, obj: MemoryObj | None) -> None:
        if obj is None:
            self._judge_absence(key, "nothing was found")
            return
        try:
            self._judge(key, await StampedValue.read(key, obj.byte_array))
        except WrongValueError as error:
            self._field.tally.found_wrong(f"{key}: {error}")

    def _judge(self, key: str, value: StampedValue) -> None:
        tally = self._field.tally
        tally.values += 1
        tally.nbytes += value.nbytes
        if value.writer != self._writer:
            tally.found_wrong(f"{key}: a value of another writer, {value.writer:x}")
            return
        answers = self._books[key].answers()
        if value.version in answers:
            return
        certain = self._books[key].certain or 0
        last = certain or self._version
        if value.version < last and self._field.history.may_be_older(self._changed[key]):
            tally.older += 1
        else:
            tally.found_wrong(f"{key}: version {value.version}; expected one of {sorted(map(str, answers))}")

    def _judge_absence(self, key: str, what: str) -> None:
        if None in self._books[key].answers():
            return
        self._field.tally.missing += 1
        if not self._field.history.may_be_gone(self._changed[key]):
            self._field.tally.found_wrong(f"{key}: {what}, and it was put; nothing has removed it")
        self._books[key].failed(None)

    # -------------------------------------------------------------------------------------------------- calls

    async def _call(self, operation: str, *args: Any, nbytes: int = 0) -> WatchedCall:
        """Makes the call, and counts how it ended. `nbytes` is what it moves, where that is known before."""
        field, rng = self._field, self._rng
        early = 0.0005 * 1000 ** rng.random() if rng.random() < _CANCELLED else None
        call = await watch_call(field.connector, field.config, field.lag.between, operation, *args, end_after=early)
        tally = field.tally
        if not call.has_ended:
            tally.found_late(f"{operation} has not ended {call.ended - call.due:.0f} s after it had to")
        elif call.late > SLACK:
            how = "cancellation" if call.is_cancelled else "deadline"
            tally.found_late(f"{operation} ended {call.late:.2f} s after its {how}, without {call.lag:.2f} s of lag")
        tally.latest = max(tally.latest, call.late)
        if call.is_cancelled:
            tally.cancelled += 1
        elif call.ok:
            tally.calls[operation] += 1
            tally.took(operation, call.ended - call.begun)
            if nbytes or not operation.endswith(("get", "get_into")):
                field.rates.add(call.begun, call.ended, nbytes)
        elif call.error is not None:
            tally.failed[operation] += 1
            tally.errors[type(call.error).__name__] += 1
            is_explained = isinstance(call.error, (StoreError, ArenaExhaustedError))
            if not is_explained or isinstance(call.error, ConnectorFailureError):
                tally.found_unexplained(f"{operation}: {type(call.error).__name__}: {call.error}")
        return call

    def _flags(self, call: WatchedCall, keys: Sequence[str]) -> list[bool]:
        if not call.ok:
            return [False] * len(keys)
        flags = list(call.value) if isinstance(call.value, (list, tuple)) else [call.value]
        if len(flags) != len(keys) or not all(isinstance(flag, bool) for flag in flags):
            self._field.tally.found_wrong(f"{call.operation}: {flags!r} for {len(keys)} keys")
            return [False] * len(keys)
        return flags

    def _end(self, memory: Sequence[GuardedMemory], call: WatchedCall) -> None:
        """Looks at memory whose call has ended, and overwrites it: what is sent from now on is not a value."""
        if not call.has_ended:
            return
        for room in memory:
            try:
                room.end()
            except WrongValueError as error:
                self._field.tally.found_wrong(f"{call.operation}: {error}")
                continue
            room.paint()
            if len(self._ended) < _WATCHED:
                self._ended.append((time.monotonic() + 1, room))

    def _check_memory(self) -> None:
        while self._ended and self._ended[0][0] <= time.monotonic():
            if not self._ended.popleft()[1].is_painted():
                self._field.tally.found_wrong("memory of the caller was written to after the call had ended")


def _release(found: Sequence[MemoryObj | None]) -> None:
    for obj in found:
        if obj is not None:
            obj.ref_count_down()
