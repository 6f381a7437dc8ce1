"""`RedisStore`: one deployment of Redis or Valkey that a test was given, and how the test reaches it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from .cluster import ClusterServers
from .redis import StoreServer, TLSServer
from .sentinel import SentinelServers
from .server_group import ServerGroup

TOPOLOGIES: Final = ("single", "unix", "tls", "password", "sentinel", "cluster", "ring")
"""The kinds of deployments. `unix`, `tls` and `password` are single servers, too."""


class RedisStore(ABC):
    """A deployment for one test. It is empty when the test begins."""

    is_own: ClassVar[bool]
    """Whether the servers are the tests' own: they may be emptied, killed and paused, and need no prefix."""

    def __init__(self, topology: str, origin: str) -> None:
        self.topology = topology
        self.origin = origin
        """Where the servers come from, as `--lmcache-connect-redis` says it; without a password."""
        self._places: dict[str | bytes, int] = {}

    @property
    @abstractmethod
    def name(self) -> str:
        """Product and version, as the server tells them, and the topology."""

    @property
    @abstractmethod
    def prefix(self) -> str:
        """The test's own namespace, which `url()` has as `?prefix=`; "" where the whole store is the test's."""

    @abstractmethod
    def url(self, *, options: Mapping[str, str] | None = None) -> str:
        """The URL for a connector of this toolkit.

        Args:
            options: added to the query, percent-encoded.
        """

    @abstractmethod
    def clients(self) -> list[Any]:
        """redis-py's clients, one for each server that takes writes; one for a whole Cluster. Close them."""

    @contextmanager
    def client_of(self, name: str | bytes) -> Iterator[Any]:
        """A client of the server that has this key, for reading and damaging records.

        Where none has it, of the one that had it when it was last asked for, or of the first.
        """
        clients = self.clients()
        try:
            found = next((place for place, client in enumerate(clients) if client.exists(name)), None)
            # On a ring, a record that was removed and is written again must not come to another server.
            place = self._places.get(name, 0) if found is None else found
            self._places[name] = place
            yield clients[place]
        finally:
            for client in clients:
                client.close()

    @abstractmethod
    def prepare(self) -> None:
        """Makes the store empty and whole, before a test."""

    @abstractmethod
    def clean(self) -> None:
        """Removes what a test left, where the store is not the tests' own."""


class OwnRedisStore(RedisStore):
    """Servers that the tests have started. `servers` kills, pauses and changes them."""

    is_own = True

    def __init__(self, topology: str, origin: str, servers: StoreServer | ServerGroup) -> None:
        super().__init__(topology, origin)
        self.servers = servers

    @property
    def name(self) -> str:
        return self.servers.name if isinstance(self.servers, ServerGroup) else f"{self.servers.name} {self.topology}"

    @property
    def prefix(self) -> str:
        return ""

    @property
    def address(self) -> str:
        """`host:port` as in `url()`, for a fault proxy; "" where there is more than one, or none."""
        server = self.servers
        if isinstance(server, ServerGroup) or self.topology == "unix":
            return ""
        return f"{server.host}:{server.tls_port if self.topology == 'tls' else server.port}"

    def url(self, *, options: Mapping[str, str] | None = None) -> str:
        servers = self.servers
        if not isinstance(servers, StoreServer):
            return servers.url(options=options)
        if isinstance(servers, TLSServer) and servers.tls:
            return servers.url("rediss", options={"ca_file": servers.ca_file, **(options or {})})
        return servers.url("unix" if self.topology == "unix" else "redis", options=options)

    def clients(self) -> list[Any]:
        return [server.client() for server in self._primaries()]

    @contextmanager
    def client_of(self, name: str | bytes) -> Iterator[Any]:
        if not isinstance(self.servers, ClusterServers):
            with super().client_of(name) as found:
                yield found
            return
        with self.servers.owner_of(name).client() as client:
            yield client

    def prepare(self) -> None:
        """Starts what a test before has killed, lets run what it paused, and removes every key."""
        servers = self.servers
        if isinstance(servers, ServerGroup):
            servers.mend()
        else:
            servers.start()
            servers.resume()
        servers.flush()

    def clean(self) -> None:
        """Does nothing: `prepare` empties the store before the next test."""

    def _primaries(self) -> list[StoreServer]:
        servers = self.servers
        if isinstance(servers, StoreServer):
            return [servers]
        if isinstance(servers, SentinelServers):
            return [servers.primary()]
        return servers.primaries() if isinstance(servers, ClusterServers) else list(servers.servers)
