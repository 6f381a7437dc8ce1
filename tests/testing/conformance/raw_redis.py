"""How the suite reaches the records of a server past the connector."""

from __future__ import annotations

import asyncio
from itertools import accumulate, pairwise
from typing import Any, ClassVar

import pytest

from lmcache_connect.record import chunk_names
from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_connect.testing.servers.redis import StoreServer


class RedisConformance(ConnectorConformance):
    """A suite on a server of the session, emptied before each test. A subclass sets `server` in a fixture."""

    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, raw=True, shared=True)
    prefix: ClassVar[str] = ""
    server: StoreServer

    @pytest.fixture(autouse=True)
    def _on_valkey(self, valkey_server: StoreServer) -> None:
        self._use(valkey_server)

    def _use(self, server: StoreServer) -> None:
        server.flush()
        self.server = server
        self.store_address = f"{server.host}:{server.port}"

    async def read_raw(self, key: str) -> bytes | None:
        return await asyncio.to_thread(self._read, self.name_of(key))

    async def write_raw(self, key: str, data: bytes) -> None:
        await asyncio.to_thread(self._write, self.name_of(key), data)

    def name_of(self, key: str) -> str:
        return chunk_names(self.prefix, [key])[0]

    def _read(self, name: str) -> bytes | None:
        with self.server.client() as client:
            return self._read_by(client, name)

    def _write(self, name: str, data: bytes) -> None:
        with self.server.client() as client:
            self._write_by(client, name, data)

    def _read_by(self, client: Any, name: str) -> bytes | None:
        if pieces := self._pieces(client, name):
            return b"".join(pieces)
        value = client.get(name)
        assert value is None or isinstance(value, bytes)
        return value

    def _write_by(self, client: Any, name: str, data: bytes) -> None:
        pieces = self._pieces(client, name)
        if len(data) != sum(map(len, pieces)):
            client.set(name, data)
            return
        ends = list(accumulate(map(len, pieces), initial=0))
        for index, (start, end) in enumerate(pairwise(ends)):  # into the pieces of a large chunk's hash
            client.hset(name, str(index), data[start:end])

    def _pieces(self, client: Any, name: str) -> list[bytes]:
        if client.type(name) != b"hash":
            return []
        return [client.hget(name, str(index)) for index in range(client.hlen(name))]
