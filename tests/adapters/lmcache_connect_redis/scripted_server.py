"""A server that speaks just enough RESP to be connected to, and then answers what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

Answer = bytes | Callable[[list[bytes]], bytes]


class ScriptedServer:
    """Answers each command by its name from `answers`; set-up commands get +OK. `close_after` drops the connection."""

    def __init__(self, answers: dict[bytes, Answer]) -> None:
        self.answers = answers
        self.commands: list[list[bytes]] = []
        self.connections = 0
        self.close_after: bytes | None = None
        self._serving: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def __aenter__(self) -> ScriptedServer:
        self._server = await asyncio.start_server(self._begin, "127.0.0.1", 0, limit=1 << 26)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for writer in self._serving.values():  # also where a task was cancelled before it began
            writer.close()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving[asyncio.create_task(self._serve(reader, writer))] = writer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                command = await self._read_command(reader)
                self.commands.append(command)
                name = command[0].upper()
                answer = self.answers.get(name, b"$0\r\n\r\n" if name == b"GETRANGE" else b"+OK\r\n")
                writer.write(answer(command) if callable(answer) else answer)
                await writer.drain()
                if name == self.close_after:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    @staticmethod
    async def _read_command(reader: asyncio.StreamReader) -> list[bytes]:
        count = int((await reader.readuntil(b"\r\n"))[1:])
        parts = []
        for _ in range(count):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            parts.append((await reader.readexactly(size + 2))[:-2])
        return parts
