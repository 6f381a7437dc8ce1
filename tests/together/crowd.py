"""`Crowd`: single calls that are made at the same time. Each checks its own answer."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Final

from lmcache_connect import LocalCPUBackend, ManagedConnector, MemoryObj
from lmcache_connect.testing import StampedValue

from .stock import KIB, MIB, Item, Stock, new_chunk

TIME_LIMIT: Final = 50.0
"""Seconds after which a test of a crowd has hung."""

PUT_SIZES: Final = (*[4 * KIB] * 6, *[64 * KIB] * 4, MIB, 5 * MIB)
CANCELLED_SIZES: Final = (4 * KIB, 64 * KIB, *[MIB] * 2, *[5 * MIB] * 2)


class Crowd:
    """The calls of one test on one connector."""

    def __init__(self, connector: ManagedConnector, stock: Stock, rng: random.Random, prefix: str = "") -> None:
        """`prefix` begins the keys that it puts: several crowds on one store need different ones."""
        backend = connector.context.local_cpu_backend
        assert isinstance(backend, LocalCPUBackend)
        self._connector = connector
        self._backend = backend
        self._stock = stock
        self._rng = rng
        self._prefix = prefix
        self._replaced: dict[str, bool] = {}  # keys whose put was cancelled, and whether it had ended by then
        self.done: Final[Counter[str]] = Counter()
        """How many calls have ended as they should, by operation."""

    async def run(self, count: int, cancelled: int = 0) -> None:
        """Makes `count` calls at the same time, and among them `cancelled` more that are cancelled at some moment.

        Raises:
            AssertionError: an answer was wrong. All others have ended by then.
            Exception: what a call has raised.
        """
        calls: list[Coroutine[Any, Any, None]] = [self.one(number) for number in range(count)]
        calls += [self.cancelled(number) for number in range(cancelled)]
        self._rng.shuffle(calls)
        async with asyncio.timeout(TIME_LIMIT):
            ended = await asyncio.gather(*calls, return_exceptions=True)
            failed = [error for error in ended if error is not None]
            await self._check_replaced()
        assert not failed, f"{len(failed)} of {len(calls)}: {failed[0]!r}"

    async def one(self, number: int) -> None:
        """Makes one call, chosen at random, and checks what it answers."""
        match self._rng.choices(("get", "exists", "put"), (60, 25, 15))[0]:
            case "get":
                await self.get(self._stock.any_to_get(self._rng))
            case "exists":
                item = self._stock.any_to_look_up(self._rng)
                item.check_exists(await self._connector.exists(item.key))
                self.done["exists"] += 1
            case _:
                await self.put(f"{self._prefix}put-{number}", self._rng.choice(PUT_SIZES))

    async def get(self, item: Item) -> None:
        """Gets an item, and checks that it is that one."""
        await item.check_get(await self._connector.get(item.key))
        self.done["get"] += 1

    async def put(self, key: str, nbytes: int) -> None:
        """Puts a chunk, uses its memory for other bytes at once, and looks whether the store has it. Removes it."""
        with await new_chunk(self._backend, key, 1, nbytes) as obj:
            await self._connector.put(key, obj)
            _fill_with_other_bytes(obj)
        found = await self._connector.get(key)
        assert found is not None, f"{key} was not found"
        with found:
            assert (await StampedValue.read(key, found.byte_array)).nbytes == nbytes
        del found
        assert await self._connector.remove(key), key
        self.done["put"] += 1

    async def cancelled(self, number: int) -> None:
        """Begins a call and cancels it at some moment. Checks what must hold afterwards."""
        match self._rng.choices(("get", "exists", "put"), (50, 20, 30))[0]:
            case "get":
                item = self._stock.any_to_get(self._rng)
                await self._cancel_get(item)
            case "exists":
                item = self._stock.any_to_look_up(self._rng)
                call = asyncio.ensure_future(self._connector.exists(item.key))
                if await self._cancel(call):
                    item.check_exists(call.result())
            case _:
                await self._cancel_put(f"{self._prefix}cancelled-{number}", self._rng.choice(CANCELLED_SIZES))
        self.done["cancelled"] += 1

    async def _cancel_get(self, item: Item) -> None:
        call = asyncio.ensure_future(self._connector.get(item.key))
        if await self._cancel(call):
            await item.check_get(call.result())

    async def _cancel_put(self, key: str, nbytes: int) -> None:
        """Replaces a chunk by a put that is cancelled. The store then holds one of both, whole, for ever."""
        with await new_chunk(self._backend, key, 1, nbytes) as old:
            await self._connector.put(key, old)
        with await new_chunk(self._backend, key, 2, nbytes) as new:
            was_stored = await self._cancel(asyncio.ensure_future(self._connector.put(key, new)))
            _fill_with_other_bytes(new)
        self._replaced[key] = was_stored

    async def _check_replaced(self) -> None:
        """Whether each key whose put was cancelled holds the old or the new chunk, whole. Removes them."""
        for key, was_stored in self._replaced.items():
            found = await self._connector.get(key)
            assert found is not None, f"{key} has gone"
            with found:
                value = await StampedValue.read(key, found.byte_array)  # raises for a mixture of both
            del found
            assert value.version == 2 or not was_stored, key
            await self._connector.remove(key)

    async def _cancel(self, call: asyncio.Future[Any]) -> bool:
        """Cancels a call after a random time. Returns whether it had ended by then; otherwise, it has now."""
        if self._rng.random() < 0.5:
            for _ in range(self._rng.randrange(30)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(0.0001 * 3000.0 ** self._rng.random())
        call.cancel()
        await asyncio.wait((call,))
        if call.cancelled():
            return False
        call.result()
        return True


def _fill_with_other_bytes(obj: MemoryObj) -> None:
    obj.byte_array[:] = b"\xaa" * obj.get_size()
