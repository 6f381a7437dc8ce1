"""`BytesContender`: a client that takes and returns `bytes`, so that each value is copied into the wanted memory."""

from __future__ import annotations

import asyncio
import mmap
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import ClassVar, Final

from .contender import Contender, MissingContenderError

COMMANDS: Final = 16
"""Commands in one request at most."""


class BytesContender(Contender):
    """Moves a batch over a few connections, and copies the values as LMCache's own Valkey connector does.

    Every connection has one request at a time, of as many chunks as `request_bytes` holds, and of one where a chunk is
    longer. Both numbers are what measured fastest: more in flight only makes these clients copy more.
    """

    connections: ClassVar[int]
    """The number of connections."""

    request_bytes: ClassVar[int]
    """Bytes of values in one request at most; a chunk that is longer has a request of its own."""

    def __init__(self) -> None:
        self._staged: list[bytes] = []
        self._room: list[memoryview] = []
        self._received: list[memoryview | None] = []
        self._chunks_a_request = 1

    @abstractmethod
    async def _set(self, connection: int, keys: Sequence[str], values: Sequence[bytes]) -> None:
        """Stores a few values, in one request where it can."""

    @abstractmethod
    async def _get(self, connection: int, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Fetches a few values, in one request where it can; None for a miss."""

    def make_room(self, chunk_bytes: int, chunks: int) -> None:
        """Allocates a buffer for each chunk, and touches its pages, so that no page fault is measured."""
        memory = memoryview(mmap.mmap(-1, chunk_bytes * chunks))
        for start in range(0, len(memory), mmap.PAGESIZE):
            memory[start] = 1
        self._room = [memory[index * chunk_bytes : (index + 1) * chunk_bytes] for index in range(chunks)]
        self._chunks_a_request = max(1, min(COMMANDS, self.request_bytes // chunk_bytes))

    def give_back_room(self) -> None:
        """Drops every buffer. The memory is free when its last view is gone."""
        self._staged, self._room, self._received = [], [], []

    def stage(self, payloads: Sequence[bytes]) -> None:
        """Keeps the payloads. The client takes `bytes`, which nothing can change."""
        self._staged = list(payloads)

    async def put(self, keys: Sequence[str]) -> None:
        """Stores the staged payloads."""

        async def move(connection: int, batch: slice) -> None:
            await self._set(connection, keys[batch], self._staged[batch])

        await self._share_out(len(keys), move)

    async def get(self, keys: Sequence[str]) -> None:
        """Fetches a batch, and copies each value into its buffer as it comes."""
        received: list[memoryview | None] = [None] * len(keys)

        async def move(connection: int, batch: slice) -> None:
            for index, value in enumerate(await self._get(connection, keys[batch]), batch.start):
                received[index] = self._land(index, value)

        await self._share_out(len(keys), move)
        self._received = received

    async def get_one(self, key: str) -> None:
        """Fetches one chunk into the first buffer."""
        [value] = await self._get(0, [key])
        self._received = [self._land(0, value)]

    def received(self) -> list[memoryview | None]:
        """The buffers that the last fetch filled."""
        return list(self._received)

    def release(self) -> None:
        """Drops what was fetched. The buffers are used again."""
        self._received = []

    def _land(self, index: int, value: bytes | None) -> memoryview | None:
        if value is None:
            return None
        room = self._room[index][: len(value)]
        room[:] = value  # raises for a value that is longer than the buffer
        return room

    async def _share_out(self, count: int, move: Callable[[int, slice], Awaitable[None]]) -> None:
        """Moves `count` chunks: each connection takes the next batch when it has done its last."""
        step = self._chunks_a_request
        batches = iter([slice(start, min(start + step, count)) for start in range(0, count, step)])

        async def work(connection: int) -> None:
            for batch in batches:
                await move(connection, batch)

        async with asyncio.TaskGroup() as group:
            for connection in range(self.connections):
                group.create_task(work(connection))


def client_package(module: str, package: str) -> ModuleType:
    """The module of an optional client.

    Raises:
        MissingContenderError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingContenderError(f"{package} is not installed; `make bench-setup` installs it") from error
