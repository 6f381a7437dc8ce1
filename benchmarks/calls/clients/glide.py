"""`Glide`: valkey-glide's async client, whose core is written in Rust."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any, ClassVar, Final
from urllib.parse import urlsplit

from .client import AsyncClient, client_package

TIMEOUT_MS: Final = 60_000
"""Of one request. The client's default of 250 ms is less than a few large values take on a busy machine."""


class Glide(AsyncClient):
    """One client, which is one connection that its calls share."""

    name: ClassVar[str] = "valkey-glide"
    clients: ClassVar[int] = 1

    async def open(self, url: str, room: int, stack: AsyncExitStack) -> None:
        glide: Any = client_package("glide", "valkey-glide")
        parts = urlsplit(url)
        address = glide.NodeAddress(parts.hostname, parts.port)
        database = int(parts.path.strip("/") or 0)
        configuration = glide.GlideClientConfiguration([address], request_timeout=TIMEOUT_MS, database_id=database)
        clients = []
        for _ in range(self.clients):
            clients.append(await glide.GlideClient.create(configuration))
            stack.push_async_callback(clients[-1].close)
        self._next = cycle(clients).__next__

    def exists(self, key: str) -> Awaitable[Any]:
        return self._next().exists([key])  # type: ignore[no-any-return]

    def get(self, key: str) -> Awaitable[Any]:
        return self._next().get(key)  # type: ignore[no-any-return]

    def put(self, key: str, staged: bytes) -> Awaitable[Any]:
        return self._next().set(key, staged)  # type: ignore[no-any-return]


class TwoGlides(Glide):
    """Two clients in turn: as many connections as ours has."""

    name: ClassVar[str] = "2 × valkey-glide"
    clients: ClassVar[int] = 2
