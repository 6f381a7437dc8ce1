"""The clients that are compared, each as an application uses it. A process measures one of them."""

from __future__ import annotations

from typing import Final

from .client import AsyncClient, BlockingClient, Client, MissingClientError
from .connect import Connect, ConnectBlocking
from .coredis import Coredis
from .glide import Glide, TwoGlides
from .redis_py import RedisPy, RedisPyBlocking, RedisPyPool

__all__ = [
    "ASYNC",
    "BLOCKING",
    "OURS",
    "AsyncClient",
    "BlockingClient",
    "Client",
    "Connect",
    "ConnectBlocking",
    "MissingClientError",
    "RedisPy",
]

OURS: Final = Connect.name
ASYNC: Final[dict[str, type[AsyncClient]]] = {
    kind.name: kind for kind in (Connect, Glide, TwoGlides, Coredis, RedisPyPool, RedisPy)
}
BLOCKING: Final[dict[str, type[BlockingClient]]] = {kind.name: kind for kind in (ConnectBlocking, RedisPyBlocking)}
