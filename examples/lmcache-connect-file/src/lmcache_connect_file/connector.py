"""`FileConnector`: chunks in a folder, read into the arena and written from it by threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import anyio

from lmcache_connect import ChunkMemory, Key, MemoryObj, RemoteConnector, key_string
from lmcache_connect.contract import Flags
from lmcache_connect.record import FrameHeader

from .chunk_file import ChunkFile
from .chunk_folder import ChunkFolder
from .failures import translated
from .options import FileOptions

T = TypeVar("T")


class FileConnector(RemoteConnector):
    """Keeps every chunk in a file of its own in the folder at `path`."""

    def __init__(
        self,
        local_cpu_backend: ChunkMemory,
        path: str,
        options: FileOptions | None = None,
        allocate_timeout: float = 5.0,
        config: Any = None,
        metadata: Any = None,
    ) -> None:
        super().__init__(config, metadata)
        options = options or FileOptions()
        self._backend = local_cpu_backend
        self._allocate_timeout = allocate_timeout
        self._store = f"file://{path}"
        self._folder = ChunkFolder(Path(path), self._store, options.ttl, options.max_bytes)
        self._threads = ThreadPoolExecutor(options.threads, "lmcache-connect-file")

    async def exists(self, key: Key) -> bool:
        return (await self.batched_exists([key]))[0]

    async def batched_exists(self, keys: Sequence[Key]) -> Flags:
        names = [key_string(key) for key in keys]
        return await self._in_thread(lambda stop: self._folder.exists(names, stop))

    async def get(self, key: Key) -> MemoryObj | None:
        name = key_string(key)
        with ExitStack() as files:  # closes the file that the thread has opened, even if this task is cancelled
            found = await self._in_thread(lambda _: self._open(name, files))
            if found is None:
                return None
            file, header = found
            chunk = await self._backend.allocate_chunk_async(header.metadata, timeout=self._allocate_timeout)
            try:
                await self._in_thread(lambda stop: self._read(file, header, chunk, stop))
            except BaseException:
                chunk.ref_count_down()  # the thread has ended, so it no longer writes into the chunk
                raise
            return chunk

    async def put(self, key: Key, memory_obj: MemoryObj) -> None:
        name = key_string(key)
        await self._in_thread(lambda stop: self._folder.write(name, memory_obj, stop))

    async def remove(self, key: Key) -> bool:
        name = key_string(key)
        return await self._in_thread(lambda _: self._folder.remove(name))

    async def list(self) -> list[str]:
        return await self._in_thread(self._folder.keys)

    async def ping(self) -> int:
        await self._in_thread(lambda _: self._folder.probe())
        return 0

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---------------------------------------------------------------------------------------------------- inside

    def _open(self, name: str, files: ExitStack) -> tuple[ChunkFile, FrameHeader] | None:
        file = self._folder.open(name)
        if file is None:
            return None
        files.callback(file.close)
        with translated(self._store):
            return file, file.read_header(name)

    def _read(self, file: ChunkFile, header: FrameHeader, chunk: MemoryObj, stop: Event) -> None:
        with translated(self._store), chunk.byte_array as payload:
            file.read_payload(header, payload, stop)

    async def _in_thread(self, work: Callable[[Event], T]) -> T:
        """Runs `work(stop)` in a thread, and returns its result.

        A task that is cancelled still waits here until the thread has ended, because the thread may use a buffer of the
        caller. It sees `stop` and ends soon.
        """
        stop = Event()
        job = self._threads.submit(work, stop)
        done = asyncio.wrap_future(job)
        try:
            await asyncio.wait((done,))
        except asyncio.CancelledError:
            stop.set()
            # Work that has not begun is not started. The shield is there because anyio repeats its cancellation.
            with anyio.CancelScope(shield=True):
                while not job.cancel() and not done.done():
                    try:
                        await asyncio.wait((done,))
                    except asyncio.CancelledError:
                        continue
            if done.done() and not done.cancelled():
                done.exception()  # retrieved, so that asyncio does not log it
            raise
        return done.result()
