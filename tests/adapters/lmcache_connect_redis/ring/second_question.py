"""`SecondQuestion`: a proxy in front of a server that fails when it is asked for a name once more."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from lmcache_connect.testing.servers.redis import StoreServer

_AT_A_TIME: Final = 1 << 16


class SecondQuestion:
    """Forwards everything until the second GET of `name`: then all its connections are reset, or say nothing more."""

    host: Final = "127.0.0.1"

    def __init__(self, server: StoreServer, *, hangs: bool) -> None:
        self._upstream: Final = server
        self._hangs: Final = hangs
        self._writers: Final[list[asyncio.StreamWriter]] = []
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._failed: Final = asyncio.Event()
        self.name = b""
        self.questions = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._failed.is_set():
            writer.transport.abort()
            return
        theirs, ours = await asyncio.open_connection(self._upstream.host, self._upstream.port)
        self._writers.extend((writer, ours))
        for pump in (self._pump(reader, ours, counts=True), self._pump(theirs, writer, counts=False)):
            task = asyncio.ensure_future(pump)
            self._tasks.add(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool) -> None:
        with suppress(ConnectionError):
            while some := await reader.read(_AT_A_TIME):
                if counts and self.name and b"GET\r\n" in some and self.name in some:
                    self.questions += 1
                    if self.questions == 2:
                        self._failed.set()
                        if not self._hangs:
                            for each in self._writers:
                                each.transport.abort()
                            return
                if self._failed.is_set() and self._hangs:
                    await asyncio.get_running_loop().create_future()
                writer.write(some)
                await writer.drain()
        writer.close()
