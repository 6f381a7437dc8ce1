"""`TheirRedisStore`: somebody else's Redis, named by a URL. It is never emptied: a test has a prefix of its own."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from ...errors import InvalidArgumentError
from ...url import RemoteURL
from .redis_store import RedisStore

_DEFAULT_PORTS: Final = {"sentinel": 26_379}
_AT_ONCE: Final = 500
_PREFIX: Final = re.compile(r"[A-Za-z0-9._/-]{1,115}")
"""What `?prefix=` may be: as connectors take it, and short enough for a test's own part behind it."""


def topology_of(url: RemoteURL) -> str:
    """The topology that a URL's scheme says; `password` is told from `single` by the caller's wish alone.

    Raises:
        InvalidArgumentError: the scheme is not one of Redis, or the URL names no server.
    """
    if not url.hosts and not (url.scheme == "unix" and url.path):
        raise InvalidArgumentError("--lmcache-connect-redis", f"{url.redacted()!r} names no server; expected host:port")
    family, _, kind = url.scheme.partition("-")
    if family in {"redis", "valkey", "rediss", "valkeys"} and kind in {"", "cluster", "sentinel", "ring"}:
        return kind or ("tls" if family.endswith("s") and family != "redis" else "single")
    if url.scheme == "unix":
        return "unix"
    raise InvalidArgumentError(
        "--lmcache-connect-redis",
        f"{url.redacted()!r} has no scheme of Redis or Valkey; expected embedded, container, or a URL such as "
        "redis://host:port or redis-cluster://host:port,host:port",
    )


class TheirRedisStore(RedisStore):
    """A store that stays as it was: everything that a test writes is below a prefix, and is removed after the test.

    Args:
        topology: as it was asked for.
        url: theirs. A `prefix` in it stays the beginning of each test's.
    """

    is_own = False

    def __init__(self, topology: str, url: RemoteURL) -> None:
        super().__init__(topology, url.redacted())
        self._url = url
        self._options = {name: value.get_secret_value() for name, value in url.query.items()}
        for option in ("layout", "credentials"):
            if option in self._options:
                raise InvalidArgumentError(
                    "--lmcache-connect-redis", f"a URL with ?{option}= cannot be tested on; expected one without it"
                )
        theirs = self._options.get("prefix")
        if theirs is not None and not _PREFIX.fullmatch(theirs):
            raise InvalidArgumentError(
                "--lmcache-connect-redis",
                f"?prefix={theirs!r}; expected at most 115 of the characters A-Z a-z 0-9 . _ / -",
            )
        self._prefix = ""
        self._name = ""

    @property
    def name(self) -> str:
        if not self._name:
            with self.client_of("lmcache-connect:probe") as client:
                about = client.info("server")
            about = about if "redis_version" in about else next(iter(about.values()))  # a Cluster's is by node
            product = next(name for name in ("valkey", "redis") if f"{name}_version" in about)
            self._name = f"{product} {about[f'{product}_version']} {self.topology}"
        return self._name

    @property
    def prefix(self) -> str:
        return self._prefix

    def url(self, *, options: Mapping[str, str] | None = None) -> str:
        location = self._url.raw.get_secret_value().partition("?")[0]
        query = {**self._options, **({"prefix": self._prefix} if self._prefix else {}), **(options or {})}
        return f"{location}?{urlencode(query, quote_via=quote)}" if query else location

    def clients(self) -> list[Any]:
        import redis
        import redis.cluster
        import redis.sentinel

        url, login = self._url, self._login()
        kind = topology_of(url)
        hosts = [(found.host, found.port or _DEFAULT_PORTS.get(kind, 6379)) for found in url.hosts]
        number = self._options.get("db", "0")
        if kind == "cluster":
            node: Any = redis.cluster.ClusterNode  # redis-py leaves it without types
            return [redis.cluster.RedisCluster(startup_nodes=[node(*host) for host in hosts], **login)]
        if kind == "sentinel":
            speaks_tls = self._is_on("sentinel_tls", default=self._is_tls)
            trust = {"protocol": 2, "socket_timeout": 5.0, **(self._trust() if speaks_tls else {})}
            theirs = {"username": self._options.get("sentinel_username"), "password": self._secret("sentinel_password")}
            sentinel: Any = redis.sentinel.Sentinel
            group = sentinel(hosts, sentinel_kwargs={**trust, **theirs}, db=int(number), **login)
            return [group.master_for(url.path.strip("/"))]
        if kind == "unix":
            return [redis.Redis(unix_socket_path=url.path, db=int(number), **login)]
        database = int(url.path.strip("/") or number)
        return [redis.Redis(host=host, port=port, db=database, **login) for host, port in hosts]

    def prepare(self) -> None:
        """Chooses a prefix that nobody has used."""
        theirs = self._options.get("prefix")
        self._prefix = f"{theirs}-{secrets.token_hex(6)}" if theirs else f"lmcc-test-{secrets.token_hex(6)}"

    def clean(self) -> None:
        """Removes every key below the test's prefix, and no other."""
        if not self._prefix:
            return
        mine = f"{self._prefix}:".encode()
        failures: list[Exception] = []
        try:
            for client in self.clients():
                try:
                    with client:
                        for name in client.scan_iter(match=mine + b"*", count=_AT_ONCE):
                            if name.startswith(mine):  # whatever the server takes the pattern for
                                client.delete(name)
                except Exception as error:
                    failures.append(error)  # the other servers of a ring are cleaned first
        finally:
            self._prefix = ""
        if failures:
            raise failures[0]

    def _login(self) -> dict[str, Any]:
        login: dict[str, Any] = {
            "username": self._url.username,
            "protocol": 2,
            "socket_timeout": 5.0,
            "retry": _never(),
        }
        password = self._url.password
        login["password"] = password.get_secret_value() if password is not None else self._secret("password")
        return {**login, **(self._trust() if self._is_tls else {})}

    @property
    def _is_tls(self) -> bool:
        return self._url.scheme.startswith(("rediss", "valkeys"))

    def _trust(self) -> dict[str, Any]:
        options = self._options
        trust: dict[str, Any] = {
            "ssl": True,
            "ssl_ca_certs": options.get("ca_file"),
            "ssl_certfile": options.get("cert_file"),
            "ssl_keyfile": options.get("key_file", options.get("cert_file")),
        }
        if not self._is_on("verify", default=True):
            return trust | {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
        if "server_name" in options:  # redis-py knows no other name than the host's
            trust["ssl_check_hostname"] = False
        return trust

    def _is_on(self, option: str, *, default: bool) -> bool:
        value = self._options.get(option)
        return default if value is None else value.lower() not in {"false", "0", "no", "off"}

    def _secret(self, option: str) -> str | None:
        if (file := self._options.get(f"{option}_file")) is not None:
            with open(file, encoding="utf-8") as lines:
                return lines.readline().rstrip("\r\n")
        variable = self._options.get(f"{option}_env")
        return os.environ[variable] if variable is not None else None


def _never() -> Any:
    """No repetition: a store that stands still would take a minute of each test."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Retry(NoBackoff(), 0)
