"""`Place`: where a run happens: a store of the user's or servers that the command starts, and how they are broken."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ...errors import InvalidArgumentError, MissingExtraError
from ...url import RemoteURL
from .breakage import Breakage, proxy_breakages
from .detour import detour, servers_of

SERVERS: Final = ("valkey", "redis", "redis-tls", "sentinel", "cluster", "ring", "s3")
"""What `--server` starts."""

_REPLICATION: Final = {"repl-backlog-size": "256mb", "client-output-buffer-limit": "replica 0 0 0"}
"""Under this load a replica would otherwise be dropped while it is still copying, and never catch up."""


@dataclass(frozen=True)
class Place:
    """Where a run happens.

    Attributes:
        direct: the URL of the store.
        url: the URL that the load uses; with chaos, it may lead through proxies.
        server: what was started, in words; None for a store of the user's.
        is_own: whether the servers are the command's own, so that nobody else changes what they hold.
        reverts: whether replicas may bring older values back without a fault that the command has made.
        breakages: what may happen; empty without chaos.
    """

    direct: str
    url: str
    server: str | None = None
    is_own: bool = False
    reverts: bool = False
    breakages: list[Breakage] = field(default_factory=list)


@contextmanager
def users_store(url: str, chaos: bool) -> Iterator[Place]:
    """A store of the user's. With `chaos`, proxies on loopback stand in front of it while the block runs.

    Raises:
        InvalidURLError: the URL cannot be understood, or led through proxies.
        OSError: a server's name has no address.
    """
    parsed = RemoteURL.parse(url)
    reverts = parsed.scheme.endswith(("-sentinel", "-cluster"))
    if not chaos:
        yield Place(url, url, reverts=reverts)
        return
    with ExitStack() as stack:
        through, breakages = _through_proxies(parsed, stack)
        yield Place(url, through, reverts=reverts, breakages=breakages)


@contextmanager
def own_servers(kind: str, chaos: bool, rng: random.Random) -> Iterator[Place]:
    """Servers that run while the block runs. `kind` is one of `SERVERS`.

    Raises:
        InvalidArgumentError: an unknown kind.
        MissingExtraError, FileNotFoundError: its program is not on this machine.
        ServerStartError, GroupNotHealthyError: it did not start.
    """
    try:
        from ...testing import (
            ClusterServers,
            RcloneServer,
            RedisServer,
            RingServers,
            SentinelServers,
            ValkeyServer,
        )
        from .server_breakages import group_breakages, single_breakages
    except ModuleNotFoundError as error:
        raise MissingExtraError("soak --server", error.name or "?", "testing") from error

    # With a password, because every user of the machine can connect to a port on loopback.
    password = secrets.token_urlsafe(16)
    with ExitStack() as stack:
        server: Any
        match kind:
            case "valkey":
                server = stack.enter_context(ValkeyServer(password=password))
                url = server.url("valkey")
            case "redis":
                server = stack.enter_context(RedisServer(password=password))
                url = server.url()
            case "redis-tls":
                server = stack.enter_context(RedisServer(password=password, tls=True))
                url = server.url("rediss", options={"ca_file": server.ca_file})
            case "s3":
                server = stack.enter_context(RcloneServer())
                url = server.url()
            case "sentinel":
                server = stack.enter_context(SentinelServers(password=password, config=_REPLICATION))
                url = server.url()
            case "cluster":
                server = stack.enter_context(ClusterServers(password=password, config=_REPLICATION))
                url = server.url()
            case "ring":
                server = stack.enter_context(RingServers(password=password))
                url = server.url()
            case _:
                raise InvalidArgumentError("server", f"{kind!r} is unknown; expected {', '.join(SERVERS)}")
        name = server.name
        if not chaos:
            yield Place(url, url, name, is_own=True)
            return
        through = url
        breakages: list[Breakage] = []
        if kind not in {"sentinel", "cluster"}:
            through, breakages = _through_proxies(RemoteURL.parse(url), stack)
        is_group = kind in {"sentinel", "cluster", "ring"}
        more = group_breakages(server, rng) if is_group else single_breakages([server], rng)
        # Servers are broken as often as connections are.
        breakages = [*breakages, *more * max(1, len(breakages) // (2 * len(more)))]
        yield Place(url, through, name, is_own=True, breakages=breakages)


def _through_proxies(url: RemoteURL, stack: ExitStack) -> tuple[str, list[Breakage]]:
    from ...testing import FaultProxy

    proxies = [stack.enter_context(FaultProxy(server.host, server.port)) for server in servers_of(url)]
    given = {name: value.get_secret_value().lower() for name, value in url.query.items()}
    has_sums = given.get("checksum", "true") in {"true", "1", "yes", "on"} and given.get("layout") != "lmcache"
    return detour(url, proxies), proxy_breakages(proxies, finds_damage=has_sums)
