"""Three servers, and a ring of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol
from urllib.parse import urlencode

from lmcache_connect import LocalCPUBackend, MemoryObj
from lmcache_connect.record import chunk_names
from lmcache_connect.testing import FaultProxy, ValkeyServer
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect_redis.topology.ring import Ring

from ..chunks import chunk


class Reachable(Protocol):
    """A server, or what stands in front of it."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...


class Servers:
    """The servers of a ring, or proxies in front of them, and which of them has a key."""

    def __init__(self, servers: Sequence[StoreServer], reached: Sequence[Reachable] | None = None) -> None:
        self.servers = servers
        self.reached = reached or servers
        self.addresses = [(each.host, each.port) for each in self.reached]
        self.ring = Ring(self.addresses)

    def url(self, **options: object) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.addresses)
        return f"redis-ring://{hosts}" + (f"?{urlencode(options)}" if options else "")

    def index_of(self, key: str) -> int:
        return self.addresses.index(self.ring.address_of(chunk_names("", [key])[0]))

    def keys_on(self, index: int, count: int, start: str = "k") -> list[str]:
        """Keys that are on one of the servers."""
        return list(self._found(index, count, start))

    def _found(self, index: int, count: int, start: str) -> Iterator[str]:
        number = 0
        while count:
            key = f"{start}{number}"
            number += 1
            if self.index_of(key) == index:
                count -= 1
                yield key

    def names_on(self, index: int) -> set[str]:
        with self.servers[index].client() as client:
            return {name.decode() for name in client.scan_iter()}

    def flush(self) -> None:
        for server in self.servers:
            if not server.running:
                server.restart()
            server.flush()


@contextmanager
def three_servers() -> Iterator[Servers]:
    with ValkeyServer() as first, ValkeyServer() as second, ValkeyServer() as third:
        yield Servers([first, second, third])


@contextmanager
def behind_proxies(servers: Servers) -> Iterator[tuple[Servers, list[FaultProxy]]]:
    proxies = [FaultProxy(server.host, server.port) for server in servers.servers]
    for proxy in proxies:
        proxy.start()
    try:
        yield Servers(servers.servers, proxies), proxies
    finally:
        for proxy in proxies:
            proxy.stop()


@contextmanager
def chunks(backend: LocalCPUBackend, keys: Sequence[str], nbytes: int) -> Iterator[list[MemoryObj]]:
    """A chunk for each key, released at the end."""
    made: list[MemoryObj] = []
    try:
        made.extend(chunk(backend, key, nbytes) for key in keys)
        yield made
    finally:
        for obj in made:
            obj.ref_count_down()
