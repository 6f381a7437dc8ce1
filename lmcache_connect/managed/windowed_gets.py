"""`WindowedGets`: any number of keys, got in windows that fit the memory, with one window ahead of its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any, Final, Generic, TypeVar

from ..contract import RemoteConnector, Slots
from ..errors import ArenaExhaustedError, InvalidArgumentError
from ..keys import Key
from ..lease import context_without_leases
from ..memory import ChunkMemory, MemoryObj, release_all
from .progress import Tally
from .window_size import WindowSize

KeyT = TypeVar("KeyT", bound=Key)


class Window(Generic[KeyT]):
    """Some keys and their slots. What nobody took is released by those who made the window."""

    __slots__ = ("is_short", "keys", "slots")

    def __init__(self, keys: list[KeyT], slots: Slots, is_short: bool) -> None:
        self.keys: Final = keys
        self.slots: Final = slots
        self.is_short: Final = is_short
        """Whether there may have been no room for some chunks, whose slots are None, too: `get` tells."""

    def take(self, index: int) -> MemoryObj | None:
        """The chunk of a slot, with its reference."""
        obj, self.slots[index] = self.slots[index], None
        return obj


class WindowedGets(Generic[KeyT]):
    """Gets keys in windows. While the caller reads one, the next one comes, so that the store has always work."""

    def __init__(
        self,
        connector: RemoteConnector,
        memory: ChunkMemory,
        keys: Iterable[KeyT] | AsyncIterable[KeyT],
        chunks_without_room: Callable[[], int],
    ) -> None:
        """Nothing is asked yet, and `keys` is read no further than the window ahead.

        `chunks_without_room` tells how many chunks batches of the connector have found no room for so far.

        Raises:
            InvalidArgumentError: `keys` is one key, or cannot be iterated over.
        """
        self._connector: Final = connector
        self._chunks_without_room: Final = chunks_without_room
        self._source: Final[_Source[KeyT]] = _Source(keys)
        self._size: Final = WindowSize(memory)

    async def windows(self) -> AsyncGenerator[Window[KeyT], None]:
        """Yields the windows in order. Each is valid until the next one is asked for."""
        window: Window[KeyT] | None = None
        ahead: asyncio.Task[Window[KeyT] | None] | None = self._begin()
        try:
            while True:
                if ahead is None:
                    ahead = self._begin()
                await asyncio.wait((ahead,))  # which does not cancel it where this is cancelled
                arrived, ahead = ahead, None
                window = arrived.result()
                if window is None:
                    return
                if not window.is_short:  # otherwise the room is for what is missing
                    ahead = self._begin()
                yield window
                release_all(window.slots)
        finally:
            if window is not None:
                release_all(window.slots)
            if ahead is not None:
                ahead.add_done_callback(_release_arrived)
                ahead.cancel()
                await asyncio.wait((ahead,))
            await self._source.close()

    async def chunks(self, tally: Tally) -> AsyncGenerator[tuple[KeyT, MemoryObj | None], None]:
        """Yields each key and its chunk, which is released when the next one is asked for."""
        async with aclosing(self.windows()) as windows:
            async for window in windows:
                for index, key in enumerate(window.keys):
                    obj = window.take(index)
                    if obj is None and window.is_short:
                        obj = await self._connector.get(key)
                    nbytes = 0 if obj is None else obj.get_size()
                    try:
                        yield key, obj
                    finally:
                        release_all(obj)  # unless the caller did
                    tally.add(1, obj is not None, nbytes)

    def _begin(self) -> asyncio.Task[Window[KeyT] | None]:
        # It outlives the call that began it, where a thread asks for one window after the other.
        return asyncio.get_running_loop().create_task(self._next(), context=context_without_leases())

    async def _next(self) -> Window[KeyT] | None:
        keys = await self._source.take(self._size.take())
        if not keys:
            return None
        missed_before = self._chunks_without_room()
        slots: Slots
        try:
            slots = await self._connector.batched_get(keys)
        except ArenaExhaustedError:
            # The chunks that the caller holds may take the room. They are released before it asks for these.
            slots = [None] * len(keys)
            is_short = True
        else:
            is_short = self._chunks_without_room() > missed_before
        for obj in slots:
            if obj is not None:
                self._size.observe(obj.get_physical_size())
        if is_short:
            self._size.begin_again()
        return Window(keys, slots, is_short)


class _Source(Generic[KeyT]):
    """The keys, from an iterable of either kind."""

    def __init__(self, keys: Any) -> None:
        self._from_loop: AsyncIterator[KeyT] | None = None
        if isinstance(keys, AsyncIterable):
            self._from_loop = aiter(keys)
        elif isinstance(keys, Iterable) and not isinstance(keys, str | bytes):
            self._plain = iter(keys)
        else:
            raise InvalidArgumentError(
                "keys", f"a {type(keys).__qualname__}; expected an iterable of keys. For one pass [key]"
            )

    async def take(self, count: int) -> list[KeyT]:
        """The next keys, `count` at most; none at the end."""
        found: list[KeyT] = []
        if self._from_loop is None:
            for key in self._plain:
                found.append(key)
                if len(found) == count:
                    break
        else:
            async for key in self._from_loop:
                found.append(key)
                if len(found) == count:
                    break
        return found

    async def close(self) -> None:
        """Closes an async generator, such as a scan, which otherwise would hold what it has until it is collected."""
        if isinstance(self._from_loop, AsyncGenerator):
            await self._from_loop.aclose()


def _release_arrived(ahead: asyncio.Task[Window[Any] | None]) -> None:
    if not ahead.cancelled() and ahead.exception() is None and (window := ahead.result()) is not None:
        release_all(window.slots)
