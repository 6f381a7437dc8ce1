"""`OwnMemory`: the calls of one actor that move chunks through memory of its own, with guard bytes around it."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from lmcache_connect.testing import GuardedMemory, StampedValue, WrongValueError

from .caller import Caller, Outcome

MOST_BYTES: Final = 8 << 20
"""The largest chunk of these calls."""

_WATCHED: Final = 4
_WATCHED_SECONDS: Final = 1.0


class OwnMemory:
    """Makes the calls, and looks at the memory when they have ended, and again a second later."""

    def __init__(self, caller: Caller, rng: random.Random, end_after: Callable[[random.Random], float | None]) -> None:
        """`end_after` chooses after how many seconds a call is ended early; None: it is not."""
        self._caller = caller
        self._rng = rng
        self._end_after = end_after
        self._ended: deque[tuple[float, GuardedMemory]] = deque()

    def check(self) -> None:
        """Looks at memory whose call ended a second ago. Nothing may have been written there since."""
        while self._ended and self._ended[0][0] <= time.monotonic():
            if not self._ended.popleft()[1].is_painted():
                self._violate("it was written to after the call had ended")

    async def put(self, values: Sequence[StampedValue]) -> list[bool]:
        """Puts the values. Returns for each whether it is stored."""
        memory = [GuardedMemory(self._rng, value.nbytes) for value in values]
        for value, room in zip(values, memory, strict=True):
            await room.fill(value)
        put = await self._call("put_from", [value.key for value in values], memory)
        self._end(memory, put)
        return self._flags(put, values)

    async def get(self, keys: Sequence[str], sizes: Sequence[int]) -> list[StampedValue | None] | None:
        """Gets chunks of these sizes. Returns one slot per key; None: the call has failed, or was told as wrong."""
        memory = [GuardedMemory(self._rng, size) for size in sizes]
        got = await self._call("get_into", keys, memory)
        if not got.ok:
            self._end(memory, got)
            return None
        found: list[StampedValue | None] = []
        is_right = True
        for key, room, flag in zip(keys, memory, self._flags(got, keys), strict=True):
            try:
                value = await room.read(key) if flag else None
            except WrongValueError as error:
                self._caller.journal.violate(f"{self._caller.store} {key}: WRONG VALUE: {error}")
                is_right = False
                break
            found.append(value)
            self._caller.journal.count("values verified in memory of the caller", value is not None)
        self._end(memory, got)
        return found if is_right else None

    async def _call(self, operation: str, keys: Sequence[str], memory: Sequence[GuardedMemory]) -> Outcome:
        early = self._end_after(self._rng)
        if len(keys) == 1:
            return await self._caller.call(operation, keys[0], memory[0].views, end_after=early)
        views = [room.views for room in memory]
        return await self._caller.call(f"batched_{operation}", list(keys), views, end_after=early)

    def _flags(self, call: Outcome, items: Sequence[object]) -> list[bool]:
        if not call.ok:
            return [False] * len(items)
        flags = [call.value] if len(items) == 1 else call.value
        if len(flags) != len(items) or not all(isinstance(flag, bool) for flag in flags):
            self._violate(f"{flags!r} for {len(items)} keys")
            return [False] * len(items)
        return list(flags)

    def _end(self, memory: Sequence[GuardedMemory], call: Outcome) -> None:
        """Looks at the memory of a call that has ended, and overwrites it: what is sent now is not a value."""
        if not call.has_ended:
            return  # which was told
        for room in memory:
            try:
                room.end()
            except WrongValueError as error:
                self._violate(str(error))
                continue
            room.paint()
            if len(self._ended) < _WATCHED:
                self._ended.append((time.monotonic() + _WATCHED_SECONDS, room))

    def _violate(self, text: str) -> None:
        self._caller.journal.violate(f"{self._caller.store}: WRONG MEMORY of the caller: {text}")
