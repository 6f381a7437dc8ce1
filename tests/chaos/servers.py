"""The three servers of a storm."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

from lmcache_connect.testing import RedisServer, ValkeyServer

StoreServer: TypeAlias = ValkeyServer | RedisServer

TIGHT_BYTES: Final = 96 << 20
"""`maxmemory` of the server that evicts and refuses. Two large chunks and what is on the way fill it."""

POLICIES: Final = ("allkeys-lru", "volatile-lru", "noeviction", "allkeys-random")


def make_server(kind: str, binary: str | None, maxmemory: int | None = None) -> StoreServer:
    """A server that is not started yet. `kind` is valkey or redis, `binary` the path of another executable.

    Raises:
        FileNotFoundError, MissingExtraError: there is none on this machine.
    """
    base: type[ValkeyServer] | type[RedisServer] = ValkeyServer if kind == "valkey" else RedisServer
    if binary is not None:
        path = str(Path(binary).absolute())  # a link stays one: redis-server is also redis-check-rdb, by its name
        if not Path(path).is_file():
            raise FileNotFoundError(f"no server at {path}")

        class Given(base):  # type: ignore[misc, valid-type]
            @classmethod
            def binary(cls) -> str:
                return path

        base = Given
    base.binary()
    return base(maxmemory=str(maxmemory) if maxmemory is not None else None)
