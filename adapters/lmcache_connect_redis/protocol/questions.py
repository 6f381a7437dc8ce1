"""`Questions`: commands that only ask, and whose error replies are answers as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from lmcache_connect import StoreError

from .connection import Connection
from .redirects import ASKING, RedirectedError

Answer: TypeAlias = int | bytes | StoreError
"""An integer; a string, b"" for a missing one; or the typed error of an error reply."""


class Questions:
    """Asks over one connection, several commands at a time."""

    def __init__(self, connection: Connection, *, is_asking: bool = False) -> None:
        """`is_asking`: the server is a node of a cluster that only is about to get the keys' slots."""
        self.connection: Final = connection
        self._is_asking = is_asking

    async def ask(self, commands: Sequence[bytes], limit: int) -> list[Answer]:
        """Sends commands together. Returns their answers, strings of at most `limit` bytes.

        Raises:
            StoreError: the connection is lost, or must not be used again.
        """
        if not commands:
            return []
        sent = [ASKING + command for command in commands] if self._is_asking else commands
        await self.connection.send(b"".join(sent), replies=len(commands) * (1 + self._is_asking))
        return [await self._answer(limit) for _ in commands]

    async def _answer(self, limit: int) -> Answer:
        if self._is_asking:
            await self.connection.read_ok()
        try:
            return await self.connection.read_answer(limit)
        except StoreError as error:
            if self.connection.is_suspect or not self.connection.stream.is_open:
                raise
            return error.with_traceback(None)


def redirect_among(answers: Sequence[Answer]) -> RedirectedError | None:
    """Returns what a node of a cluster has said of another one; None: it has answered itself."""
    return next((answer for answer in answers if isinstance(answer, RedirectedError)), None)


def number_of(answer: Answer | None) -> int | None:
    """Returns an answer that is an integer; None for any other."""
    return answer if isinstance(answer, int) else None


def text_of(answer: Answer | None) -> bytes:
    """Returns an answer that is a string; b"" for any other."""
    return answer if isinstance(answer, bytes) else b""
