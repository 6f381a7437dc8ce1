"""`Fetches`: gets of one key that are under way at the same time share one fetch from the store.

A fetch is a task of its own, so that no caller's cancellation or deadline ends it for the others. It goes on while
somebody waits for it. When nobody does any more it is cancelled, and the last to leave waits until it has ended.

A key that is put, removed or cleared takes the fetch's right to fill the cache (`Filling`). Those who joined before
still get what it brings, because they asked before the change had ended. Later gets begin a fetch of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from lmcache_connect import Key, MemoryObj, StoreUnavailableError
from lmcache_connect.contract import Deadlined, Slots, operation_under_way
from lmcache_connect.keys import key_strings
from lmcache_connect.lease import context_without_leases
from lmcache_connect.memory import Filling, HotCache, SharedMemoryObj, release_all
from lmcache_connect.transport import wait_uncancelled

from .callers import Callers

Ask = Callable[[Sequence[Key]], Awaitable[Slots]]
"""Asks the store: one slot per key, in order."""

Keep = Callable[[Filling, str, MemoryObj | None], None]
"""Ends a right to fill the cache, with the key's name and the chunk that was fetched for it, or None."""


class Fetches:
    """The fetches that are under way. Lives on one event loop."""

    def __init__(self, cache: HotCache, store: str, ask: Ask, keep: Keep) -> None:
        """`store` is the store's address, for messages."""
        self._cache = cache
        self._store = store
        self._ask = ask
        self._keep = keep
        self._under_way: dict[str, _Fetch] = {}  # the one that a get of the key may join
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, keys: Sequence[Key]) -> Slots:
        """One slot per key, in order: a read-only object with one reference for the caller, or None for a miss.

        When it raises, the caller holds nothing.
        """
        names = key_strings(keys)
        fetches: dict[str, _Fetch] = {}
        new: dict[str, Key] = {}
        for name, key in zip(names, keys, strict=True):
            if (fetch := self._under_way.get(name)) is not None and fetch.may_be_joined(name):
                fetches[name] = fetch
            else:
                new[name] = key
        if new:
            fetch = self._begin(new)
            fetches.update(dict.fromkeys(new, fetch))
        joined = list(dict.fromkeys(fetches.values()))
        operation = operation_under_way.get()
        for fetch in joined:
            fetch.callers.join(operation)
        is_unwinding = False
        try:
            for fetch in joined:
                await fetch.wait()
            return [fetches[name].shared(name) for name in names]
        except GeneratorExit:  # the loop was closed under this get: nothing can be awaited any more
            is_unwinding = True
            raise
        finally:
            abandoned = [fetch for fetch in joined if self._leave(fetch, operation)]
            if not is_unwinding:
                for fetch in abandoned:
                    # Cancelled with its last caller: what it holds is free when that caller goes on.
                    await wait_uncancelled(fetch.task)

    async def close(self) -> None:
        """Cancels the fetches that are under way, and waits for their end."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        for task in tasks:
            await wait_uncancelled(task)

    def _begin(self, keys: Mapping[str, Key]) -> _Fetch:
        fetch = _Fetch(self._store, {name: self._cache.begin(name) for name in keys})
        # Not under the leases and the deadline of the first caller: the memory is the cache's, and others wait as well.
        context = context_without_leases()
        context.run(operation_under_way.set, fetch.callers)
        fetch.task = asyncio.get_running_loop().create_task(self._run(fetch, list(keys.values())), context=context)
        self._tasks.add(fetch.task)
        fetch.task.add_done_callback(self._ended)
        self._under_way.update(dict.fromkeys(keys, fetch))
        return fetch

    async def _run(self, fetch: _Fetch, keys: list[Key]) -> None:
        try:
            fetch.found.update(zip(fetch.fillings, await self._ask(keys), strict=True))
        finally:
            # In one step with the end: a get that comes now finds the chunk in the cache, or begins a fetch.
            self._detach(fetch)
            for name, filling in fetch.fillings.items():
                self._keep(filling, name, fetch.found.get(name))
            if not fetch.callers:
                fetch.release()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # everybody may have left: asyncio must not complain that nobody asked

    def _leave(self, fetch: _Fetch, operation: Deadlined | None) -> bool:
        """Returns whether the fetch was given up with this caller, and has not ended yet."""
        fetch.callers.leave(operation)
        if fetch.callers:
            return False
        if fetch.task.done():
            fetch.release()
            return False
        self._detach(fetch)
        fetch.task.cancel()
        return True

    def _detach(self, fetch: _Fetch) -> None:
        for name in fetch.fillings:
            if self._under_way.get(name) is fetch:
                del self._under_way[name]


class _Fetch:
    """One call of the store, for one or several keys, and those who wait for it."""

    def __init__(self, store: str, fillings: Mapping[str, Filling]) -> None:
        self._store = store
        self.fillings: Final = fillings
        """The right to fill the cache with each of its keys, by name, in the order of the call."""
        self.found: Final[dict[str, MemoryObj | None]] = {}
        """What the store gave, each with one reference; empty before the end and after a failure."""
        self.task: asyncio.Task[None]
        self.callers: Final = Callers()
        """Those who have joined and not left."""

    def may_be_joined(self, name: str) -> bool:
        """Whether it began after the last change of the key."""
        return self.fillings[name].is_current

    async def wait(self) -> None:
        """Returns when it has ended well.

        Raises:
            StoreUnavailableError: something else than its callers has cancelled it.
            What the store's connector raised.
        """
        await asyncio.wait((self.task,))
        if self.task.cancelled():
            raise StoreUnavailableError(self._store, "the fetch that this get had joined was cancelled")
        self.task.result()

    def shared(self, name: str) -> MemoryObj | None:
        """An object for one caller, of the chunk that was fetched for the key, or None."""
        obj = self.found[name]
        return None if obj is None else SharedMemoryObj(obj)

    def release(self) -> None:
        """Releases the fetch's own references."""
        release_all(list(self.found.values()))
        self.found.clear()
