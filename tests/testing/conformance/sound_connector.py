"""A connector that keeps every rule, on a store in memory that may be damaged: the broken ones derive from it."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from lmcache_connect import (
    ChunkMetadata,
    ConnectorAdapter,
    ConnectorContext,
    ConnectorManager,
    ConnectorOptions,
    Key,
    ManagedConnector,
    MemoryObj,
    RemoteConnector,
    StoreUnavailableError,
    key_string,
)
from lmcache_connect.errors import LoopNotRunningError
from lmcache_connect.record import decode_record, encode_record
from lmcache_connect.testing import Capabilities, ConnectorConformance


class Shelf:
    """The store: it outlives its connectors. `kept` are chunks that a broken connector holds on to."""

    def __init__(self) -> None:
        self.records: dict[str, bytes] = {}
        self.ends: dict[str, float] = {}
        self.kept: list[MemoryObj] = []
        self.is_down = False
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path:
        """For connectors that keep a part elsewhere."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory()
        return Path(self._folder.name)

    def close(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


class ShelfOptions(ConnectorOptions):
    ttl: float | None = None


class SoundConnector(RemoteConnector):
    """Gives the event loop its turn in the middle of everything, as a network would."""

    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__()
        self.context = context
        self.shelf = shelf
        self.ttl = context.options(ShelfOptions).ttl

    def name(self, key: Key) -> str:
        return key_string(key)

    async def turn(self) -> None:
        if asyncio.get_running_loop() is not self.context.loop:
            raise LoopNotRunningError("this is another loop than the connector's")
        await asyncio.sleep(0)
        if self.shelf.is_down:
            raise StoreUnavailableError("shelf://", "nobody answers")
        for name in [name for name, end in self.shelf.ends.items() if end <= time.monotonic()]:
            del self.shelf.ends[name]
            del self.shelf.records[name]

    async def exists(self, key: Key) -> bool:
        await self.turn()
        return self.name(key) in self.shelf.records

    async def get(self, key: Key) -> MemoryObj | None:
        record = await self.load(self.name(key))
        if record is None:
            return None
        metadata, payload = decode_record(self.name(key), record)
        return await self.received(metadata, bytes(payload))

    async def load(self, name: str) -> bytes | None:
        await self.turn()
        return self.shelf.records.get(name)

    async def received(self, metadata: ChunkMetadata, payload: bytes) -> MemoryObj:
        timeout = self.context.settings.allocate_timeout
        obj = await self.context.local_cpu_backend.allocate_async(
            metadata.shapes, metadata.dtypes, metadata.fmt, timeout=timeout
        )
        try:
            await self.turn()
            obj.byte_array[: len(payload)] = payload
        except BaseException:
            obj.ref_count_down()
            raise
        return obj

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        record = encode_record(self.name(key), memory_obj)
        await self.turn()
        await self.store(self.name(key), record)

    async def store(self, name: str, record: bytes) -> None:
        self.shelf.records[name] = record
        self.note_end(name)

    def note_end(self, name: str) -> None:
        if self.ttl is not None:
            self.shelf.ends[name] = time.monotonic() + self.ttl

    async def remove(self, key: Key) -> bool:
        await self.turn()
        return self.shelf.records.pop(self.name(key), None) is not None

    async def list(self) -> list[str]:
        await self.turn()
        return list(self.shelf.records)

    async def ping(self) -> int:
        await self.turn()
        return 0

    async def close(self) -> None:
        pass


class ShelfAdapter(ConnectorAdapter):
    schema = "shelf://"
    options = ShelfOptions

    def __init__(self, shelf: Shelf, made: type[SoundConnector]) -> None:
        super().__init__()
        self.shelf = shelf
        self.made = made

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return self.made(context, self.shelf)


class ShelfSuite(ConnectorConformance):
    """The suite on a shelf of its own, with any connector that stands for the author's or for the manager's."""

    url = "shelf://here"
    capabilities = Capabilities(remove=True, list=True, scan=True, ping=True, ttl=True, raw=True, shared=True)
    made: type[SoundConnector] = SoundConnector
    managed: type[ManagedConnector] = ManagedConnector

    def setup_method(self) -> None:
        self.shelf = Shelf()
        self.adapters = (ShelfAdapter(self.shelf, self.made),)

    def teardown_method(self) -> None:
        self.shelf.close()

    async def make_connector(self, manager: ConnectorManager) -> ManagedConnector:
        connector = manager.create_connector(self.url)
        if self.managed is ManagedConnector:
            return connector
        return self.managed(connector.wrapped, connector.context)

    async def read_raw(self, key: str) -> bytes | None:
        return self.shelf.records.get(key)

    async def write_raw(self, key: str, data: bytes) -> None:
        self.shelf.records[key] = data

    async def break_store(self) -> None:
        self.shelf.is_down = True

    async def mend_store(self) -> None:
        self.shelf.is_down = False
