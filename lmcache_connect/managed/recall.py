"""`Recall`: what a connector's hot cache answers before its store is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio.lowlevel

from ..contract import CallerMemory, Flags, Slots, copy_out
from ..keys import Key
from ..memory import HotCache, MemoryObj, release_all
from .operation_runner import OperationRunner
from .operations import BATCHED_EXISTS, BATCHED_GET, EXISTS, GET, Operation, Transferred

T = TypeVar("T")

_AT_ONCE: Final = 1000
"""Keys of a batch that are looked up before the event loop may do other work."""


class Recall:
    """Asks the hot cache first, and the store for the rest. Lives on the owning loop.

    The cache stands before the circuit breaker, the byte budget and the deadline. So cached chunks are hits also while
    the store is lost, and tell the breaker nothing about it. They are counted as calls, keys, hits and bytes, and in no
    histogram. A closed or bypassed connector recalls nothing.
    """

    def __init__(self, cache: HotCache, runner: OperationRunner) -> None:
        self._cache: Final = cache
        self._runner: Final = runner

    async def get(self, key: Key, ask: Callable[[Key], Awaitable[MemoryObj | None]]) -> MemoryObj | None:
        """The chunk from the cache, or what `ask(key)` returns."""
        if self._runner.is_serving:
            # The connector inside counts the miss, when it looks for itself.
            found = self._cache.get(key, count_miss=False)
            if found is not None:
                self._runner.recalled(GET, 1, found)
                return found
        return await ask(key)

    async def exists(self, key: Key, ask: Callable[[Key], Awaitable[bool]]) -> bool:
        """True where the key is in the cache, else what `ask(key)` returns."""
        if self._runner.is_serving and self._cache.contains(key):
            self._runner.recalled(EXISTS, 1, True)
            return True
        return await ask(key)

    async def batched_get(self, keys: Sequence[Key], ask: Callable[[Sequence[Key]], Awaitable[Slots]]) -> Slots:
        """One slot per key, in order. `ask` is given the keys that are not in the cache.

        When this raises, nothing is held.
        """
        found: Slots = [None] * len(keys)
        try:
            await self._recalled(keys, lambda key: self._cache.get(key, count_miss=False), found)
            return await self._completed(BATCHED_GET, keys, found, None, ask)
        except BaseException:
            release_all(found)
            raise

    async def batched_exists(self, keys: Sequence[Key], ask: Callable[[Sequence[Key]], Awaitable[Flags]]) -> Flags:
        """One answer per key, in order. `ask` is given the keys that are not in the cache."""
        found = [False] * len(keys)
        await self._recalled(keys, self._cache.contains, found)
        return await self._completed(BATCHED_EXISTS, keys, found, False, ask)

    async def into(
        self,
        operation: Operation[Transferred],
        theirs: CallerMemory,
        ask: Callable[[CallerMemory], Awaitable[Transferred]],
    ) -> Transferred:
        """Copies what the cache has into memory of its caller. `ask` is given the keys that are left."""
        flags = [await self._copied_out(theirs, index) for index in range(len(theirs.keys))]
        wanted = [index for index, is_here in enumerate(flags) if not is_here]
        if len(wanted) == len(flags):
            return await ask(theirs)
        nbytes = sum(regions.nbytes for regions, is_here in zip(theirs.regions, flags, strict=True) if is_here)
        recalled = Transferred([True] * (len(flags) - len(wanted)), nbytes)
        if not wanted:
            self._runner.recalled(operation, len(flags), recalled)
            return recalled
        asked = await ask(theirs.part(wanted))
        for index, has_come in zip(wanted, asked.flags, strict=True):
            flags[index] = has_come
        self._runner.recalled(operation, len(recalled.flags), recalled, calls=0)
        return Transferred(flags, nbytes + asked.nbytes)

    async def _copied_out(self, theirs: CallerMemory, index: int) -> bool:
        if index and index % _AT_ONCE == 0:
            await anyio.lowlevel.checkpoint()
        if not self._runner.is_serving or (obj := self._cache.get(theirs.keys[index], count_miss=False)) is None:
            return False
        with obj:
            if not theirs.accepts(index, obj.metadata):
                return False
            await copy_out(obj, theirs.regions[index])
            return True

    async def _recalled(self, keys: Sequence[Key], look: Callable[[Key], T], found: list[T]) -> None:
        for index, key in enumerate(keys):
            if index % _AT_ONCE == 0:
                if index:
                    await anyio.lowlevel.checkpoint()  # a hundred thousand keys must not hold the loop
                if not self._runner.is_serving:
                    return
            found[index] = look(key)

    async def _completed(
        self,
        operation: Operation[list[T]],
        keys: Sequence[Key],
        found: list[T],
        missing: T,
        ask: Callable[[Sequence[Key]], Awaitable[list[T]]],
    ) -> list[T]:
        wanted = [index for index, item in enumerate(found) if item is missing]
        if len(wanted) == len(found):
            return await ask(keys)
        if not wanted:
            self._runner.recalled(operation, len(found), found)
            return found
        recalled = [item for item in found if item is not missing]
        for index, item in zip(wanted, await ask([keys[index] for index in wanted]), strict=True):
            found[index] = item
        self._runner.recalled(operation, len(recalled), recalled, calls=0)
        return found
