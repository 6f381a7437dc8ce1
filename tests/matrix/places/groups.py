"""Several servers: a Sentinel service, a Cluster and a ring, with proxies in front of every server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from lmcache_connect.testing import (
    ClusterServers,
    FaultProxy,
    FaultyRedisProxy,
    RingServers,
    SentinelServers,
    ValkeyServer,
)
from lmcache_connect.testing.servers.process import ServerProcess
from lmcache_connect.testing.servers.redis import StoreServer
from lmcache_connect.testing.servers.redis_faults import ReplyFault
from lmcache_connect.testing.servers.server_group import ServerGroup

from .place import Way
from .redis_place import PASSWORD, RedisLikePlace

_USER = {"user": "operator on >operator allkeys allchannels +@all"}

PATIENT = 3.0
"""Seconds after which a group replaces a primary. A call of the matrix has ended by then."""


class Redirected(ReplyFault):
    """Replies with other ports. A port and the one in its place have five digits each."""

    def __init__(self, ports: Mapping[bytes, bytes]) -> None:
        self._ports = ports

    def serve(self, ask: Callable[[], bytes], client: socket.socket, stop: threading.Event) -> bool:
        reply = ask()
        if not reply.startswith(b"$"):  # not in a chunk
            for port, other in self._ports.items():
                reply = reply.replace(port, other)
        client.sendall(reply)
        return True


class GroupPlace(RedisLikePlace):
    """Clients go through the proxies of TCP, then through those that answer, to each server with data."""

    group: ServerGroup

    def _open(self, group: ServerGroup) -> None:
        self.group = self.stack.enter_context(group)
        self.servers = group.servers

    def _proxies(self, stack: ExitStack) -> None:
        for server in self.servers:
            answering = stack.enter_context(FaultyRedisProxy(server.host, server.port))
            self.answering.append(answering)
            self.wires.append(stack.enter_context(FaultProxy(answering.host, answering.port)))

    def redirect(self, proxy: FaultyRedisProxy) -> None:
        """Has replies name the proxies in the servers' places, so that clients go through them."""
        proxy.otherwise = Redirected(
            {
                str(server.port).encode(): str(wire.port).encode()
                for server, wire in zip(self.servers, self.wires, strict=True)
            }
        )

    def _revive(self) -> None:
        self.group.mend()

    def _flush(self) -> None:
        pass


class RingPlace(GroupPlace):
    """Three plain servers."""

    offers = RedisLikePlace.offers | {"single"}

    def start(self) -> None:
        super().start()
        self._open(RingServers(ValkeyServer, password=PASSWORD, config=_USER))
        self._proxies(self.stack)

    def url(self, way: Way) -> str:
        ends = self.servers if way == "direct" else self.wires
        hosts = ",".join(f"127.0.0.1:{end.port}" for end in ends)
        return f"redis-ring://{hosts}?{self.query()}"

    def _flush(self) -> None:
        self.group.flush()

    def victim(self, key: str) -> ServerProcess:
        return _holder(self, key)


class ClusterPlace(GroupPlace):
    """Three primaries with a replica each."""

    offers = RedisLikePlace.offers | {"group"}

    def start(self) -> None:
        super().start()
        self.cluster = ClusterServers(ValkeyServer, password=PASSWORD, config=_USER, node_timeout=PATIENT)
        self._open(self.cluster)
        self._proxies(self.stack)

    def url(self, way: Way) -> str:
        ends = self.servers if way == "direct" else self.wires
        return f"redis-cluster://{','.join(f'127.0.0.1:{end.port}' for end in ends)}?{self.query()}"

    def heal(self, proxy: FaultyRedisProxy) -> None:
        super().heal(proxy)
        self.redirect(proxy)

    def _flush(self) -> None:
        self.cluster.flush()

    def victim(self, key: str) -> ServerProcess:
        return _holder(self, key, self.cluster.primaries())

    def fail_over(self, key: str) -> None:
        """The primary that has the key hands over to its replica."""
        self.cluster.fail_over(_holder(self, key, self.cluster.primaries()))


class SentinelPlace(GroupPlace):
    """A primary, two replicas, three sentinels."""

    offers = RedisLikePlace.offers | {"group"}

    def start(self) -> None:
        super().start()
        self.sentinel = SentinelServers(ValkeyServer, password=PASSWORD, config=_USER, down_after=PATIENT)
        self._open(self.sentinel)
        self._proxies(self.stack)
        self._asked = [
            self.stack.enter_context(FaultyRedisProxy(sentinel.host, sentinel.port))
            for sentinel in self.sentinel.sentinels
        ]
        for proxy in self._asked:
            self.redirect(proxy)

    def url(self, way: Way) -> str:
        ends = self.sentinel.sentinels if way == "direct" else self._asked
        hosts = ",".join(f"127.0.0.1:{end.port}" for end in ends)
        return f"redis-sentinel://{hosts}/{self.sentinel.service}?{self.query()}"

    def _flush(self) -> None:
        self.sentinel.flush()

    def mend(self) -> None:
        super().mend()
        for proxy in self._asked:
            proxy.drop_all()

    def victim(self, key: str) -> ServerProcess:
        return self.sentinel.primary()

    def fail_over(self, key: str) -> None:
        """The primary hands over to a replica."""
        self.sentinel.fail_over()


def _holder(place: RedisLikePlace, key: str, among: list[StoreServer] | None = None) -> StoreServer:
    for server in among if among is not None else place.servers:
        if any(name.startswith(b"{%b}" % key.encode()) for name in place.names(server)):
            return server
    raise LookupError(f"no server has {key!r}; expected it to be stored before a fault")
