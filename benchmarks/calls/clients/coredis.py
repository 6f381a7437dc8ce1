"""`Coredis`: the coredis client, which is Python compiled by mypyc."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final

from .client import AsyncClient, client_package

CONNECTIONS: Final = 2
"""What measured fastest of 1, 2, 8 and 50, by a little: its calls share connections."""
TIMEOUT: Final = 60.0
"""Seconds a connection, a reply and a place in the pool may take."""


class Coredis(AsyncClient):
    """One client with its own pool."""

    name: ClassVar[str] = "coredis"

    async def open(self, url: str, room: int, stack: AsyncExitStack) -> None:
        coredis: Any = client_package("coredis", "coredis")
        limits = {"pool_timeout": TIMEOUT, "stream_timeout": TIMEOUT, "connect_timeout": TIMEOUT}
        client = coredis.Redis.from_url(url, max_connections=CONNECTIONS, **limits)
        self._client = await stack.enter_async_context(client)

    def exists(self, key: str) -> Awaitable[Any]:
        return self._client.exists([key])  # type: ignore[no-any-return]

    def get(self, key: str) -> Awaitable[Any]:
        return self._client.get(key)  # type: ignore[no-any-return]

    def put(self, key: str, staged: bytes) -> Awaitable[Any]:
        return self._client.set(key, staged)  # type: ignore[no-any-return]
