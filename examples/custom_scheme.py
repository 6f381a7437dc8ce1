"""A store of your own behind a scheme of your own: here a dictionary. Run: python examples/custom_scheme.py"""

import asyncio

from lmcache_connect import ConnectorAdapter, ConnectorContext, ConnectorManager, Key, MemoryObj, RemoteConnector
from lmcache_connect.record import decode_record, encode_record


class DictConnector(RemoteConnector):
    def __init__(self, context: ConnectorContext) -> None:
        self.records: dict[str, bytes] = {}
        self.backend = context.local_cpu_backend

    async def exists(self, key: Key) -> bool:
        return str(key) in self.records

    async def get(self, key: Key) -> MemoryObj | None:
        if (record := self.records.get(str(key))) is None:
            return None
        metadata, payload = decode_record(str(key), record)  # verifies the checksum and the key
        chunk = await self.backend.allocate_chunk_async(metadata)
        chunk.byte_array[:] = payload
        return chunk

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        self.records[str(key)] = encode_record(str(key), memory_obj)

    async def list(self) -> list[str]:
        return list(self.records)

    async def close(self) -> None:
        self.records.clear()


class DictAdapter(ConnectorAdapter):
    schema = "dict://"

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return DictConnector(context)


async def main() -> None:
    async with ConnectorManager("dict://mine") as manager:
        manager.register(DictAdapter)
        connector = manager.create_connector()
        with await manager.local_cpu_backend.allocate_async((2, 32, 256, 128), "bfloat16") as chunk:
            await connector.put("prompt-1", chunk)
        print("hit" if await connector.exists("prompt-1") else "miss", await connector.list())


if __name__ == "__main__":
    asyncio.run(main())
