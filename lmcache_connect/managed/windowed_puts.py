"""`WindowedPuts`: any number of chunks, put in batches, while further ones are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final

from ..contract import RemoteConnector
from ..errors import InvalidArgumentError
from ..keys import Key
from ..memory import ChunkMemory, MemoryObj, release_all
from .progress import Tally
from .window_size import WindowSize

Pair = tuple[Key, MemoryObj]


class PutWindow:
    """Pairs that are to be put together. Holds a reference on each chunk until `release`."""

    def __init__(self, size: WindowSize) -> None:
        self._size: Final = size
        self._most = size.take()
        self.keys: Final[list[Key]] = []
        self.objs: Final[list[MemoryObj]] = []  # with a reference on each
        self.nbytes = 0

    @property
    def is_full(self) -> bool:
        """Whether it should have no further chunk."""
        return len(self.keys) >= self._most or self.nbytes >= self._size.bytes

    def add(self, pair: Any) -> None:
        """Takes a pair of a key and a chunk.

        Raises:
            InvalidArgumentError: it is not one.
            ReleasedObjectError: the chunk was released.
        """
        if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[1], MemoryObj):
            kinds = ", ".join(type(item).__qualname__ for item in pair) if isinstance(pair, tuple) else ""
            got = f"a tuple of ({kinds})" if kinds else f"a {type(pair).__qualname__}"
            raise InvalidArgumentError("pairs", f"it yields {got}; expected tuples of a key and a MemoryObj")
        key, obj = pair
        obj.ref_count_up()
        self._size.observe(obj.get_physical_size())
        self.keys.append(key)
        self.objs.append(obj)
        self.nbytes += obj.get_size()

    def release(self) -> None:
        """Releases what is held. Idempotent."""
        release_all(self.objs)
        self.objs.clear()


class WindowedPuts:
    """Puts pairs in batches. What comes while a batch is under way is the next batch.

    So a caller who makes chunks slowly has each put at once, one who makes them fast has large batches, and no chunk is
    held without being put: a caller who waits for room for the next one gets it.
    """

    def __init__(self, connector: RemoteConnector, memory: ChunkMemory, tally: Tally) -> None:
        self._connector: Final = connector
        self._size: Final = WindowSize(memory)
        self._tally: Final = tally
        self._window = PutWindow(self._size)
        self._has_more = asyncio.Event()
        self._has_space = asyncio.Event()
        self._is_last = False

    async def run(self, pairs: Iterable[Pair] | AsyncIterable[Pair]) -> None:
        """Returns when every pair was put. A failure of either side ends the other one, and is raised.

        Raises:
            InvalidArgumentError: `pairs` cannot be iterated over, or yields something else.
            What `batched_put` raises, and what the iterable raises.
        """
        failure: BaseException | None = None
        try:
            async with aclosing(_pairs_of(pairs)) as source, asyncio.TaskGroup() as group:
                group.create_task(self._put_windows())
                async for pair in source:
                    self._window.add(pair)
                    self._has_more.set()
                    while self._window.is_full:
                        self._has_space.clear()
                        await self._has_space.wait()
                self._is_last = True
                self._has_more.set()
        except BaseExceptionGroup as failed:
            failure = failed.exceptions[0]
        finally:
            self._window.release()
        try:
            if failure is not None:
                raise failure  # here, where it is not told that it came up while the group was handled
        finally:
            failure = None  # its traceback has this frame

    async def _put_windows(self) -> None:
        while True:
            await self._has_more.wait()
            self._has_more.clear()
            window, self._window = self._window, PutWindow(self._size)
            self._has_space.set()
            try:
                if window.keys:
                    await self._connector.batched_put(window.keys, window.objs)
                    self._tally.add(len(window.keys), len(window.keys), window.nbytes)
            finally:
                window.release()
            if self._is_last and not self._window.keys:
                return


def windows_of(pairs: Iterable[Pair], memory: ChunkMemory) -> Iterator[PutWindow]:
    """The pairs in windows, for a thread, which makes chunks and puts them in turn. Each is released behind it.

    Raises:
        What `PutWindow.add` raises, and what the iterable raises.
    """
    size = WindowSize(memory)
    window = PutWindow(size)
    try:
        for pair in _plain(pairs):
            window.add(pair)
            if window.is_full:
                yield window
                window.release()
                window = PutWindow(size)
        if window.keys:
            yield window
    finally:
        window.release()


async def _pairs_of(pairs: Any) -> AsyncGenerator[Pair, None]:
    if isinstance(pairs, AsyncIterable):
        try:
            async for pair in pairs:
                yield pair
        finally:
            if isinstance(pairs, AsyncGenerator):
                await pairs.aclose()  # what it holds for the pair at hand is released now, and not some time later
        return
    for pair in _plain(pairs):
        yield pair


def _plain(pairs: Any) -> Iterable[Pair]:
    if isinstance(pairs, Iterable) and not isinstance(pairs, str | bytes):
        return pairs
    raise InvalidArgumentError(
        "pairs", f"a {type(pairs).__qualname__}; expected an iterable of tuples of a key and a chunk"
    )
