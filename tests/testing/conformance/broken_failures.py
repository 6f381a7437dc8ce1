"""Connectors that break the rules for a store that fails, for its connection, and for making a connector."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from contextlib import closing, suppress
from typing import Any, Final

from lmcache_connect import ConnectorContext, Key, MemoryObj, StoreUnavailableError
from lmcache_connect.contract import Slots
from lmcache_connect.testing import ConnectorConformance as Suite

from .broken_cases import Cases
from .sound_connector import Shelf, SoundConnector
from .wire_shelf import WireConnector, reply, reply_from, request

CASES: Final = Cases()
breaks = CASES.breaks

DOWN: Final = Suite.test_a_store_that_is_down_is_an_error_and_never_a_miss
MIDDLE: Final = Suite.test_a_store_that_fails_in_the_middle_gives_chunks_or_errors_and_works_again
MADE: Final = Suite.test_making_a_connector_asks_nothing_and_does_not_block_the_loop


# -------------------------------------------------------------------------------------------- a store that fails


@breaks(DOWN, r"get\(\) answered that a stored key is missing")
@breaks(MIDDLE, "was a miss when the store failed")
class TakesAnErrorForAMiss(SoundConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except OSError:  # which StoreUnavailableError is
            return None


@breaks(DOWN, r"exists\(\) answered that a stored key is missing")
class TakesAnErrorForAbsence(SoundConnector):
    async def exists(self, key: Key) -> bool:
        with suppress(OSError):
            return await super().exists(key)
        return False


@breaks(DOWN, r"batched_get\(\) answered that a stored key is missing")
class TakesAnErrorForHoles(SoundConnector):
    async def batched_get(self, keys: Any) -> Slots:
        found = await asyncio.gather(*(self.get(key) for key in keys), return_exceptions=True)
        return [None if isinstance(obj, BaseException) else obj for obj in found]


@breaks(DOWN, r"put\(\) was acknowledged")
class AcknowledgesWhatFailed(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        with suppress(OSError):
            await super().put(key, memory_obj)


@breaks(MIDDLE, "was stored and is a miss")
class AcknowledgesBeforeItStores(SoundConnector):
    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        for _ in range(20):
            with suppress(OSError):
                await self.turn()
        with suppress(OSError):
            await super().put(key, memory_obj)


@breaks(DOWN, r"ping\(\) answered 0; ask the store")
class PingsWithoutAsking(SoundConnector):
    async def ping(self) -> int:
        return 0


@breaks(DOWN, r"remove\(\) answered False")
class RemovesNothingInSilence(SoundConnector):
    async def remove(self, key: Key) -> bool:
        with suppress(OSError):
            return await super().remove(key)
        return False


@breaks(DOWN, r"list\(\) named 0 keys")
class ListsNothingInSilence(SoundConnector):
    async def list(self) -> list[str]:
        with suppress(OSError):
            return await super().list()
        return []


@breaks(DOWN, r"get\(\) still tries after")
class RepeatsForNineSeconds(SoundConnector):
    async def turn(self) -> None:
        end = time.monotonic() + 9
        while time.monotonic() < end:
            try:
                return await super().turn()
            except StoreUnavailableError:
                await asyncio.sleep(0.05)
        await super().turn()
        return None


@breaks(MIDDLE, "and the connector does not")
class NeverConnectsAgain(SoundConnector):
    is_lost = False

    async def turn(self) -> None:
        if self.is_lost:
            raise StoreUnavailableError("shelf://", "the connection is closed")
        try:
            await super().turn()
        except StoreUnavailableError:
            self.is_lost = True
            raise


@breaks(Suite.test_a_connector_can_be_made_while_the_store_is_down, "connect in the first call that needs it")
class ConnectsWhileItIsMade(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        if shelf.is_down:
            raise ConnectionRefusedError("nobody answers")


# ------------------------------------------------------------------------------------------ making a connector


@breaks(MADE, r"sqlite3.connect\(.*do it in the first call")
class OpensItsDatabase(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        sqlite3.connect(shelf.folder / "chunks.db").close()


@breaks(MADE, r"socket.connect\(\('127.0.0.1', 9\)\)")
class OpensItsSocket(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        with suppress(OSError), closing(socket.socket()) as connection:
            connection.connect(("127.0.0.1", 9))


@breaks(MADE, "for writing; do it in the first call")
class WritesAFile(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        (shelf.folder / "lock").write_text("mine")


@breaks(MADE, "making a connector held the event loop for 0.1")
class TakesItsTime(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        time.sleep(0.12)


@breaks(Suite.test_a_connector_that_was_opened_off_the_loop_is_the_same, "share the store with others")
class KeepsItsStoreToItself(SoundConnector):
    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        (shelf.folder / "locked").mkdir()  # fails where one has done so before


# ------------------------------------------------------------------------------------------- blocking the loop


@breaks(Suite.test_a_chunk_of_32_mebibytes_does_not_block_the_event_loop, "from files in the event loop's thread")
class ReadsADatabaseOnTheLoop(SoundConnector):
    """SQLite answers within milliseconds for a small chunk, and has no other way than to block."""

    def __init__(self, context: ConnectorContext, shelf: Shelf) -> None:
        super().__init__(context, shelf)
        self.path = shelf.folder / "chunks.db"

    async def store(self, name: str, record: bytes) -> None:
        def write() -> None:
            with closing(sqlite3.connect(self.path)) as database, database:
                database.execute("CREATE TABLE IF NOT EXISTS chunks (name TEXT PRIMARY KEY, record BLOB)")
                database.execute("PRAGMA synchronous = OFF")
                database.execute("INSERT OR REPLACE INTO chunks VALUES (?, ?)", (name, record))

        await asyncio.to_thread(write)

    async def load(self, name: str) -> bytes | None:
        with closing(sqlite3.connect(self.path)) as database:
            row = database.execute("SELECT record FROM chunks WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None


@breaks(Suite.test_a_chunk_of_32_mebibytes_does_not_block_the_event_loop, "32 MiB held the event loop for")
class ChecksEveryByteByHand(SoundConnector):
    async def load(self, name: str) -> bytes | None:
        record = await super().load(name)
        if record is not None:
            time.sleep(len(record) / 40e6)  # noqa: ASYNC251 - a checksum in Python, of 40 MB/s
        return record


# ------------------------------------------------------------------------------------------------- the connection


@breaks(Suite.test_a_connection_that_is_cut_at_any_byte_gives_a_chunk_or_an_error, "was a miss")
class TakesTheEndForAMiss(WireConnector):
    async def get(self, key: Key) -> MemoryObj | None:
        try:
            return await super().get(key)
        except OSError:
            return None


@breaks(Suite.test_a_get_that_is_cancelled_at_any_byte_leaves_nothing_behind, "is a miss|came back with")
class LeavesItsReplyToTheNext(WireConnector):
    """One connection for all callers, kept when one of them is cancelled in the middle of a reply."""

    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, verb: bytes, name: str, record: bytes = b"") -> bytes | None:
        if self.streams is None:
            self.streams = await asyncio.open_connection(*self.address)
        reader, writer = self.streams
        writer.write(request(verb, name, record))
        return await reply(reader)

    async def close(self) -> None:
        if self.streams is not None:
            self.streams[1].transport.abort()


@breaks(Suite.test_a_slow_store_does_not_block_the_event_loop, "held the event loop for")
class WaitsInTheLoopsThread(WireConnector):
    async def ask(self, verb: bytes, name: str, record: bytes = b"") -> bytes | None:
        with (
            closing(socket.create_connection(self.address)) as connection,
            connection.makefile("rb") as file,
        ):
            connection.sendall(request(verb, name, record))
            return reply_from(file)
