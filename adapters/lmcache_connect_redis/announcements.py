"""Announcements of workers on a Redis server: who uses it, for as long as they say so."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from lmcache_connect import StoreError
from lmcache_connect.contract import MAX_ANNOUNCEMENT_BYTES, MAX_WORKERS
from lmcache_connect.errors import StoreCommandError

from .protocol.connection import Connection
from .protocol.replies import encode_command

_WORKER_BYTES: Final = 128

_FIELD: Final = b"announcement"

_AT_A_TIME: Final = 64


class Announcements:
    """Keeps one hash for each worker, which expires by the server's clock, and one set with the names of the workers.

    Chunks are strings. Since these are hashes and a set, what lists chunks does not list them.
    """

    def __init__(self, prefix: str) -> None:
        self._index = f"{prefix}lmcache-connect:workers".encode()
        self._prefix = f"{prefix}lmcache-connect:worker:".encode()

    async def put(self, connection: Connection, worker: str, document: bytes, ttl: float) -> None:
        """Stores a document for `ttl` seconds.

        Raises:
            StoreError: the server refused it, or its expiry. Nothing is left that does not expire, if the server lets
                us remove it.
        """
        key, name = self._prefix + worker.encode(), worker.encode()
        expiry = b"%d" % max(1, int(ttl * 1000))
        await connection.send(
            b"".join(
                (
                    encode_command(b"HSET", key, _FIELD, document),
                    encode_command(b"PEXPIRE", key, expiry),
                    encode_command(b"SADD", self._index, name),
                    encode_command(b"PEXPIRE", self._index, expiry),
                )
            ),
            replies=4,
        )
        try:
            _, expires, _, index_expires = await connection.read_flags(1)
            if not expires or not index_expires:  # evicted between two commands, or removed by somebody else
                raise StoreCommandError(connection.store, "the server lost an announcement before its expiry was set")
        except StoreError:
            if connection.is_reusable:
                with suppress(StoreError):  # the first error says more
                    await self.remove(connection, worker)
            raise

    async def remove(self, connection: Connection, worker: str) -> None:
        """Removes a worker's document."""
        await connection.send(
            encode_command(b"UNLINK", self._prefix + worker.encode())
            + encode_command(b"SREM", self._index, worker.encode()),
            replies=2,
        )
        await connection.discard_integers()

    async def read(self, connection: Connection) -> list[bytes]:
        """Returns the documents that have not expired. Removes the names of the other workers, where the user may."""
        await connection.send(encode_command(b"SMEMBERS", self._index))
        names = await connection.read_array(MAX_WORKERS * (16 + _WORKER_BYTES), _WORKER_BYTES)
        connection.pending -= 1
        documents: list[bytes] = []
        gone: list[bytes] = []
        for start in range(0, min(len(names), MAX_WORKERS), _AT_A_TIME):
            wanted = names[start : start + _AT_A_TIME]
            commands = [encode_command(b"HGETALL", self._prefix + name) for name in wanted]
            await connection.send(b"".join(commands), replies=len(commands))
            for name in wanted:
                pairs = await connection.read_array(2 * MAX_ANNOUNCEMENT_BYTES, MAX_ANNOUNCEMENT_BYTES)
                connection.pending -= 1
                if not pairs:
                    gone.append(name)
                elif pairs[0] == _FIELD and len(pairs) == 2:
                    documents.append(pairs[1])
        if gone:
            await connection.send(encode_command(b"SREM", self._index, *gone))
            await connection.read_taken()
        return documents
