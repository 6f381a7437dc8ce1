"""`ConnectorCaller`: an application with a manager of its own, on the running event loop or on one in a thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from typing import Any

from lmcache_connect import ConnectorConfig, ConnectorManager, LocalCPUBackend, ManagedConnector, MemoryObj

from ..cell import Mode, Operation
from ..limits import ARENA, DEADLINE, ROOM, STALL
from .caller import Caller


class ConnectorCaller(Caller):
    """Its arena has room for 16 chunks."""

    def __init__(self, url: str, errors: Mode) -> None:
        self.backend = LocalCPUBackend(ARENA)
        config = ConnectorConfig.load(
            errors=errors,
            operation_timeout=DEADLINE,
            min_throughput=1 << 40,
            stall_timeout=STALL,
            allocate_timeout=ROOM,
            breaker_reset=0.2,
            close_grace=0.5,
        )
        self.manager = ConnectorManager(url, local_cpu_backend=self.backend, config=config)
        self.connector: ManagedConnector

    async def open(self) -> ConnectorCaller:
        """Makes the connector. Connects to nothing yet."""
        self.connector = await self.manager.open_connector()
        return self

    async def put(self, key: str, data: bytes) -> bool:
        with self.chunk(data) as chunk:
            await self.connector.put(key, chunk)
        return True

    async def get(self, key: str) -> bytes | None:
        return taken(await self.connector.get(key))

    def chunk(self, data: bytes) -> MemoryObj:
        """A chunk of these bytes in the arena."""
        chunk = self.backend.allocate((len(data),), "uint8")
        assert chunk is not None, "the arena has no room for the matrix's own chunk"
        chunk.byte_array[:] = data
        return chunk

    def in_fork(self, operation: Operation, key: str) -> str:
        with self.chunk(b"forked") as chunk:

            def call() -> object:
                begun: Any = self.connector.get(key) if operation == "get" else self.connector.put(key, chunk)
                return begun.send(None)

            return forked(call)

    async def close(self) -> None:
        await self.manager.close()

    def held(self) -> list[str]:
        now = self.backend.statistics()
        found = []
        if now.reserved or now.live_objects or now.leaked_objects:
            found.append(f"{now.reserved} bytes of the arena in {now.live_objects + now.leaked_objects} chunks")
        self.backend.close()
        return found


class LoopInThread:
    """An event loop in a thread, which can be stopped and run again."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.run()

    def run(self) -> None:
        """Runs the loop, in a new thread."""
        self._thread = threading.Thread(target=self.loop.run_forever, name="matrix loop", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stops the loop. What is under way on it stands still."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)

    def close(self) -> None:
        """Stops and closes it."""
        self.stop()
        self.loop.close()


def taken(chunk: MemoryObj | None) -> bytes | None:
    """The chunk's bytes. Releases it."""
    if chunk is None:
        return None
    with chunk:
        return bytes(chunk.byte_array)


def forked(call: object) -> str:
    """What `call` came to in a fork of this process: the name of what it raised, `value` or `False`.

    `HANGS` after three seconds.
    """
    assert callable(call)
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # CPython 3.12 warns of a fork beside threads
        child = os.fork()
    if not child:
        signal.alarm(3)  # a call that hangs tells nothing
        try:
            told = "value" if call() not in (None, False) else "False"
        except BaseException as error:
            told = type(error).__name__
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    try:
        return os.read(reading, 200).decode() or "HANGS"
    finally:
        os.close(reading)
        os.waitpid(child, 0)
