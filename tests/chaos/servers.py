"""The three servers of a storm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

from lmcache_connect.testing import RedisServer, ValkeyServer

StoreServer: TypeAlias = ValkeyServer | RedisServer

TIGHT_BYTES: Final = 96 << 20
"""`maxmemory` of the server that evicts and refuses. Two large chunks and what is on the way fill it."""

POLICIES: Final = ("allkeys-lru", "volatile-lru", "noeviction", "allkeys-random")


class TLSRedisServer(RedisServer):
    """A Redis server whose URLs lead to its TLS port."""

    def __init__(self, *, maxmemory: str | None = None) -> None:
        super().__init__(maxmemory=maxmemory, tls=True)

    def url(self, scheme: str = "rediss", *, db: int | None = None, options: Mapping[str, str] | None = None) -> str:
        return super().url(scheme, db=db, options={"ca_file": self.ca_file, **(options or {})})


KINDS: Final[dict[str, type[ValkeyServer] | type[RedisServer]]] = {
    "valkey": ValkeyServer,
    "redis": RedisServer,
    "redis-tls": TLSRedisServer,
}


def url_port(server: StoreServer) -> int:
    """The port of the server's URL."""
    return server.tls_port if isinstance(server, TLSRedisServer) else server.port


def url_through(server: StoreServer, port: int, options: Mapping[str, str] | None = None) -> str:
    """The server's URL through a proxy at another port."""
    return server.url(options=options).replace(f":{url_port(server)}", f":{port}")


def make_server(kind: str, binary: str | None, maxmemory: int | None = None) -> StoreServer:
    """A server that is not started yet. `kind` is one of `KINDS`, `binary` the path of another executable.

    Raises:
        FileNotFoundError, MissingExtraError: there is none on this machine.
    """
    base = KINDS[kind]
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
