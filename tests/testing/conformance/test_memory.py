"""The memory connector keeps every rule."""

from __future__ import annotations

from lmcache_connect.testing import Capabilities, ConnectorConformance
from lmcache_reference_connectors import memory

URL = "memory://conformance"


class TestMemoryConnector(ConnectorConformance):
    url = URL
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, raw=True, shared=True)

    async def read_raw(self, key: str) -> bytes | None:
        return memory._stores[URL].get(key)

    async def write_raw(self, key: str, data: bytes) -> None:
        memory._stores[URL][key] = data
