"""Proxies in front of Redis servers, as operators run them: twemproxy and HAProxy, started on free ports of 127.0.0.1.

    with ValkeyServer() as server, TwemproxyServer(server) as proxy:
        ...  # something that is given proxy.url()

Both are programs of the machine (Debian: `apt-get install nutcracker haproxy`).
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import ClassVar

from .process import NotReadyError, ServerProcess, unused_port
from .redis import StoreServer


class RedisProxy(ServerProcess):
    """Base of the two proxies. Use a subclass.

    Args:
        servers: the started servers that it leads to.
    """

    program: ClassVar[str]
    """The name of the executable."""

    def __init__(self, *servers: StoreServer) -> None:
        super().__init__()
        self._servers = servers

    @classmethod
    def available(cls) -> bool:
        """Whether the program is on this machine. It is looked for, not run."""
        return _path(cls.program) is not None

    def url(self) -> str:
        """The proxy's URL, without options. Raises `ServerNotRunningError` before the first start."""
        return f"redis://{self.host}:{self.port}"

    # ------------------------------------------------------------------------------------------------ machinery

    def _binary(self) -> str:
        path = _path(self.program)
        if path is None:
            raise FileNotFoundError(f"no {self.program} on this machine; Debian's package is {self.program}")
        return path

    def _probe(self) -> None:
        self._ask(b"*1\r\n$4\r\nPING\r\n", b"+PONG")

    def _ask(self, command: bytes, expected: bytes) -> None:
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                connection.sendall(command)
                answer = connection.recv(4096)
        except OSError as error:
            raise NotReadyError(str(error)) from error
        if expected not in answer:
            raise NotReadyError(f"{command!r} was answered by {answer[:200]!r}")


class TwemproxyServer(RedisProxy):
    """twemproxy, which spreads keys over its servers. It knows few commands, and closes a connection over any other."""

    product = "twemproxy"
    program = "nutcracker"

    def _command(self, directory: Path) -> list[str]:
        configuration = directory / "nutcracker.yml"
        servers = "".join(f"   - {server.host}:{server.port}:1\n" for server in self._servers)
        configuration.write_text(
            "cache:\n"
            f"  listen: {self.host}:{self.port}\n"
            "  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  auto_eject_hosts: false\n"
            f"  servers:\n{servers}",
            encoding="utf-8",
        )
        return [self._binary(), "-c", str(configuration), "-a", self.host, "-s", str(unused_port())]


class HAProxyServer(RedisProxy):
    """HAProxy, which leads new connections to the server that calls itself the primary. Old ones stay as they are.

    It looks every 50 ms which one that is. One of the servers must be when it is started.
    """

    product = "HAProxy"
    program = "haproxy"

    def _command(self, directory: Path) -> list[str]:
        configuration = directory / "haproxy.cfg"
        servers = "".join(
            f"  server s{number} {server.host}:{server.port} check\n" for number, server in enumerate(self._servers)
        )
        configuration.write_text(
            "global\n  maxconn 256\n"
            "defaults\n  mode tcp\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen redis\n  bind {self.host}:{self.port}\n"
            '  option tcp-check\n  tcp-check send "INFO replication\\r\\n"\n  tcp-check expect string role:master\n'
            f"  default-server inter 50ms fall 1 rise 1\n{servers}",
            encoding="utf-8",
        )
        return [self._binary(), "-f", str(configuration)]

    def _probe(self) -> None:
        # It takes turns between the servers until it has looked at them.
        for _ in range(2 * len(self._servers)):
            self._ask(b"INFO replication\r\n", b"role:master")


def _path(program: str) -> str | None:
    # Debian puts both where only root's PATH leads to.
    return shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin")
