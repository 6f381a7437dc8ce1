"""`Equipment`: what the requests of one call are made with."""

from __future__ import annotations

from dataclasses import dataclass

from lmcache_connect.transport import ConnectionPool, Couriers

from .http_connection import HTTPConnection


@dataclass(frozen=True, slots=True)
class Equipment:
    """Connections, and who moves bytes over them.

    Attributes:
        pool: the connections.
        members: how many connections are used at a time, at most.
        couriers: the threads that move its bytes. None where the event loop moves them.
    """

    pool: ConnectionPool[HTTPConnection]
    members: int
    couriers: Couriers | None = None
