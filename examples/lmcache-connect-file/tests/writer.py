"""A process that puts one chunk again and again: python writer.py URL KEY NBYTES VERSION COUNT."""

from __future__ import annotations

import asyncio
import sys

from lmcache_connect import ConnectorManager, LocalCPUBackend
from lmcache_connect.testing import payload
from lmcache_connect_file.adapter import FileConnectorAdapter


async def main(url: str, key: str, nbytes: int, version: int, count: int) -> None:
    with LocalCPUBackend(nbytes + 4096) as backend:
        async with ConnectorManager(url, local_cpu_backend=backend) as manager:
            manager.register(FileConnectorAdapter, replace=True)
            connector = manager.create_connector()
            with await backend.allocate_async((nbytes,), "uint8") as chunk:
                chunk.byte_array[:] = payload(key, nbytes, version)
                for _ in range(count):
                    await connector.put(key, chunk)
    sys.stdout.write("ended\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
