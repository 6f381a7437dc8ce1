"""redis-py: its asyncio client, the same with a pool of 50, and its blocking client.

It takes the parser hiredis where that is installed, as it is here.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack, ExitStack
from typing import Any, ClassVar, Final

from .client import AsyncClient, BlockingClient, client_package

CONNECTIONS: Final = 50
TIMEOUT: Final = 60.0
"""Seconds a place in the pool may take."""


class RedisPy(AsyncClient):
    """The asyncio client as it comes."""

    name: ClassVar[str] = "redis-py"

    async def open(self, url: str, room: int, stack: AsyncExitStack) -> None:
        self._client = self._connect(client_package("redis.asyncio", "redis"), url)
        stack.push_async_callback(self._client.aclose)

    def _connect(self, redis: Any, url: str) -> Any:
        return redis.Redis.from_url(url)

    def exists(self, key: str) -> Awaitable[Any]:
        return self._client.exists(key)  # type: ignore[no-any-return]

    def get(self, key: str) -> Awaitable[Any]:
        return self._client.get(key)  # type: ignore[no-any-return]

    def put(self, key: str, staged: bytes) -> Awaitable[Any]:
        return self._client.set(key, staged)  # type: ignore[no-any-return]


class RedisPyPool(RedisPy):
    """With a pool of 50 connections, in which a call waits for one. That costs a lone call some 20 µs."""

    name: ClassVar[str] = "redis-py, pool of 50"

    def _connect(self, redis: Any, url: str) -> Any:
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=CONNECTIONS, timeout=TIMEOUT)
        return redis.Redis.from_pool(pool)


class RedisPyBlocking(BlockingClient):
    """The blocking client, with a pool that its threads share: a connection for each of them."""

    name: ClassVar[str] = "redis-py"

    def open(self, url: str, room: int, threads: int, stack: ExitStack) -> None:
        redis: Any = client_package("redis", "redis")
        self._client = redis.Redis.from_pool(redis.ConnectionPool.from_url(url, max_connections=threads))
        stack.callback(self._client.close)

    def exists(self, key: str) -> Any:
        return self._client.exists(key)

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def put(self, key: str, staged: bytes) -> Any:
        return self._client.set(key, staged)
