"""`Coredis`: the coredis client, which is Python compiled by mypyc."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final

from .bytes_contender import BytesContender, client_package

MIB: Final = 1 << 20
TIMEOUT: Final = 60.0
"""Seconds a connection, a reply and a place in the pool may take."""


class Coredis(BytesContender):
    """A pool of two connections; small chunks and look-ups in pipelines."""

    name: ClassVar[str] = "coredis"
    connections: ClassVar[int] = 2
    request_bytes: ClassVar[int] = 2 * MIB

    def __init__(self) -> None:
        super().__init__()
        self._client: Any = None
        self._opened = AsyncExitStack()

    async def open(self, url: str, chunk_bytes: int, chunks: int) -> None:
        """Opens the pool. Its connections are made by the first commands."""
        coredis = client_package("coredis", "coredis")
        self._client = coredis.Redis.from_url(
            url,
            max_connections=self.connections,
            pool_timeout=TIMEOUT,
            stream_timeout=TIMEOUT,
            connect_timeout=TIMEOUT,
        )
        await self._opened.enter_async_context(self._client)
        self.make_room(chunk_bytes, chunks)

    async def exists(self, keys: Sequence[str]) -> list[bool]:
        """Looks up all keys in one pipeline."""
        async with self._client.pipeline(transaction=False) as pipeline:
            replies = [pipeline.exists([key]) for key in keys]
        return [bool(await reply) for reply in replies]

    async def close(self) -> None:
        """Closes the pool."""
        await self._opened.aclose()
        self.give_back_room()

    # The pool hands out connections by itself, so nothing below names one.

    async def _set(self, connection: int, keys: Sequence[str], values: Sequence[bytes]) -> None:
        if len(keys) == 1:
            await self._client.set(keys[0], values[0])
            return
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, value in zip(keys, values, strict=True):
                pipeline.set(key, value)

    async def _get(self, connection: int, keys: Sequence[str]) -> Sequence[bytes | None]:
        if len(keys) == 1:
            return [await self._client.get(keys[0])]
        async with self._client.pipeline(transaction=False) as pipeline:
            replies = [pipeline.get(key) for key in keys]
        return [await reply for reply in replies]
