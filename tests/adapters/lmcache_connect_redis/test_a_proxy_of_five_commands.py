"""A proxy that knows GET, SET, DEL, EXISTS and MGET, and closes the connection or refuses at any other command."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import pytest

from lmcache_connect import ConnectorConfig, ConnectorManager
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import ValkeyServer

from .chunks import chunk, holds

pytestmark = pytest.mark.asyncio

KNOWN: Final = {b"GET", b"SET", b"DEL", b"EXISTS", b"MGET"}
CONFIG: Final = ConnectorConfig.load(operation_timeout=5, retries=0, max_local_cpu_bytes=64 << 20)
SIZES: Final = {"small": 4096, "megabyte": 1 << 20, "large": 9 << 20}


class FiveCommands:
    """The proxy, in front of a real server."""

    def __init__(self, server: ValkeyServer, *, closes: bool) -> None:
        self._server = server
        self._closes = closes
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> FiveCommands:
        self._listener = await asyncio.start_server(self._begin, "127.0.0.1", 0, limit=1 << 26)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(self._server.host, self._server.port, limit=1 << 26)
        try:
            while True:
                command = await self._command(reader)
                name = command.split(b"\r\n", 3)[2].upper()
                if name in KNOWN:
                    back.write(command)
                    writer.write(await self._reply(there))
                elif self._closes:
                    return
                else:
                    writer.write(b"-ERR unknown command\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            back.close()

    async def _command(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n")
        return head + b"".join([await self._reply(reader) for _ in range(int(head[1:]))])

    @staticmethod
    async def _reply(reader: asyncio.StreamReader) -> bytes:
        line = await reader.readuntil(b"\r\n")
        return line if line[:1] != b"$" or line[1:2] == b"-" else line + await reader.readexactly(int(line[1:]) + 2)


@pytest.mark.parametrize("io", ["auto", "loop"])
@pytest.mark.parametrize("closes", [True, False], ids=["closes", "refuses"])
async def test_chunks_are_whole_behind_it_and_can_be_put_got_looked_up_and_removed(
    valkey_server: ValkeyServer, closes: bool, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    valkey_server.flush()
    async with FiveCommands(valkey_server, closes=closes) as proxy:
        async with ConnectorManager(f"{proxy.url}?io={io}", config=CONFIG) as manager:
            connector = manager.create_connector()
            for key, nbytes in SIZES.items():
                with chunk(manager.local_cpu_backend, key, nbytes) as obj:
                    await connector.put(key, obj)
            with valkey_server.client() as client:
                assert {client.type(name) for name in client.keys("*")} == {b"string"}
            found = await connector.batched_get([*SIZES, "none"])
            assert [holds(obj, key) for obj, key in zip(found, [*SIZES, "none"], strict=True)] == [True] * 3 + [False]
            assert await connector.batched_exists([*SIZES, "none"]) == [True, True, True, False]
            assert await connector.ping() == 0
            opened = proxy.connections
            assert await connector.remove("small")
            assert await connector.batched_remove(["megabyte", "none"]) == [True, True]
            assert await connector.batched_exists(list(SIZES)) == [False, False, True]
            assert proxy.connections == opened, "no call costs a connection"
    assert caplog.text.count("server_without_transactions") == 1
    assert "operation_failed" not in caplog.text


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "refuses"])
async def test_a_damaged_chunk_behind_it_is_a_miss_and_is_not_removed(
    valkey_server: ValkeyServer, closes: bool
) -> None:
    valkey_server.flush()
    [name] = chunk_names("", ["k"])
    async with FiveCommands(valkey_server, closes=closes) as proxy:
        async with ConnectorManager(proxy.url, config=CONFIG) as manager:
            connector = manager.create_connector()
            with chunk(manager.local_cpu_backend, "k", 9 << 20) as obj:
                await connector.put("k", obj)
            with valkey_server.client() as client:
                client.setrange(name, 5 << 20, b"damage")
            for _ in range(2):
                assert await connector.get("k") is None
                assert await connector.batched_get(["k"]) == [None]
            assert await connector.exists("k"), "it is not removed as damaged"
            with chunk(manager.local_cpu_backend, "k", 9 << 20) as obj:
                await connector.put("k", obj)
            assert holds(await connector.get("k"), "k")
