"""`Address`: an address behind which servers change, as a balancer or the name server has it after a failover."""

from __future__ import annotations

import asyncio

from lmcache_connect.testing.servers.redis import StoreServer


class Address:
    """A port that leads to one server, and from the next connection on to another. Old connections stay."""

    def __init__(self, server: StoreServer) -> None:
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Address:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def lead_to(self, server: StoreServer) -> None:
        """From now on, new connections reach `server`."""
        self._server = server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(self._server.host, self._server.port)
        except ConnectionError:
            writer.close()
            return
        self._tasks |= {asyncio.create_task(_copy(reader, back)), asyncio.create_task(_copy(there, writer))}


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()
