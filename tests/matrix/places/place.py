"""`Place`: a store of a column's own, which faults may break, and mend again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from typing import Literal, Self

from lmcache_connect.testing import FaultProxy, FaultyRedisProxy
from lmcache_connect.testing.servers.process import ServerProcess
from lmcache_connect.testing.servers.redis_faults import ReplyFault

Way = Literal["direct", "wire", "answers"]
"""How a connector reaches the store: straight, through the proxies of TCP, or through those that answer themselves."""


class Place(ABC):
    """A store in processes of its own. A context manager. Its methods block: call them in a thread.

    Attributes:
        offers: what can be done to it: the names that faults ask for in `Fault.needs`.
        wires: the proxies of TCP, one for each server.
        answering: the proxies that answer themselves, one for each server.
        header: after how many bytes a flipped bit hits the record's header, on its way to the server and to the client.
    """

    offers: frozenset[str] = frozenset()
    header: tuple[int, int] = (130, 40)

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.wires: list[FaultProxy] = []
        self.answering: list[FaultyRedisProxy] = []

    def __enter__(self) -> Self:
        with self.stack:
            self.start()
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @abstractmethod
    def start(self) -> None:
        """Starts servers and proxies, into `stack`."""

    @abstractmethod
    def url(self, way: Way) -> str:
        """The store's URL."""

    def mend(self) -> None:
        """Makes everything as it was at the start, without keys. Called before each cell."""
        for wire in self.wires:
            wire.disarm()
            wire.drop_all()
        for proxy in self.answering:
            self.heal(proxy)

    def heal(self, proxy: FaultyRedisProxy) -> None:
        """The proxy forwards everything again, over new connections."""
        proxy.clear()
        proxy.otherwise = ReplyFault()
        proxy.drop_all()

    def victim(self, key: str) -> ServerProcess:
        """The server that has this key, and that faults of one server harm."""
        raise NotImplementedError(f"{type(self).__name__} has no servers")

    def keys(self, name: str, count: int) -> list[str]:
        """So many keys, which lie on one server."""
        return [f"{name}-{number}" for number in range(count)]

    def left(self) -> list[str]:
        """What a cell has left in the store that does not go away by itself."""
        return []
