"""`DataNodes`: the servers with data that sentinels name, each of which is told the same."""

from __future__ import annotations

from typing import Final

from lmcache_connect import RemoteURL
from lmcache_connect.url import HostPort

from ..credentials.credentials import Credentials
from ..options import RedisOptions
from .placement import Address
from .single import SingleServer

_MOST: Final = 64
"""Servers that are remembered. A service has a handful, unless a sentinel lies."""


class DataNodes:
    """Makes one `SingleServer` for each address, so that the connections to it have one tenure."""

    def __init__(
        self, url: RemoteURL, options: RedisOptions, stall_timeout: float | None, credentials: Credentials, scheme: str
    ) -> None:
        """`scheme`: that of one server's URL, `redis` or `rediss`."""
        self._url: Final = url
        self._options: Final = options
        self._stall_timeout: Final = stall_timeout
        self._credentials: Final = credentials
        self._scheme: Final = scheme
        self._servers: Final[dict[Address, SingleServer]] = {}

    def at(self, address: Address) -> SingleServer:
        """Returns the server at an address."""
        server = self._servers.get(address)
        if server is None:
            if len(self._servers) >= _MOST:
                self._servers.pop(next(iter(self._servers))).retire()
            host, port = address
            changes = {"scheme": self._scheme, "hosts": (HostPort(host=host, port=port),), "path": ""}
            server = SingleServer(
                self._url.model_copy(update=changes), self._options, self._stall_timeout, self._credentials
            )
            self._servers[address] = server
        return server


def shown(address: Address) -> str:
    """Returns an address as a URL has it."""
    return str(HostPort(host=address[0], port=address[1]))
