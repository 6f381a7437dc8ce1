"""`SentinelPrimary`: the primary of a service, wherever the sentinels say that it is."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from lmcache_connect import RemoteURL, StoreError
from lmcache_connect.errors import ReadOnlyStoreError
from lmcache_connect.observability import event
from lmcache_connect.url import HostPort

from ..options import TLS_SCHEMES
from ..protocol.connection import Connection
from ..protocol.traits import Role
from ..sentinel_options import SentinelOptions
from .credential_sources import credentials_of
from .credentials import Credentials
from .sentinels import Address, Sentinels
from .single import SingleServer

_FRESH_SECONDS: Final = 1.0
"""For how long connections are opened to a server that was just found to be the primary, without asking again."""


_MOST_SERVERS: Final = 64
"""Servers that are remembered. A service has a handful, unless a sentinel lies."""


class SentinelPrimary:
    """Opens connections to the primary of a service. It has the face of `SingleServer`.

    The sentinels are asked for each connection, except within a second of the last time. Each data node is asked for
    its role: one that calls itself a replica is not the primary, whatever a sentinel says. When the primary is another
    one than before, no connection to the one before is used for another call.
    """

    def __init__(
        self,
        url: RemoteURL,
        options: SentinelOptions,
        stall_timeout: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Opens nothing yet. `stall_timeout`: seconds without a byte after which a connection is dead.

        `credentials`: what the data nodes are told. None: those of the URL and the options.

        Raises:
            InvalidURLError: the URL names no sentinel, one of them twice, or no service.
            InvalidOptionError: a password cannot be read from where the options point.
        """
        self.is_tls: Final = url.scheme.removesuffix("-sentinel") in TLS_SCHEMES
        self._store: Final = url.label()
        self._url: Final = url
        self._options: Final = options
        self._stall_timeout: Final = stall_timeout
        self.sentinels: Final = Sentinels(url, options, stall_timeout, is_tls=self.is_tls)
        self._credentials: Final = credentials if credentials is not None else credentials_of(url, options)
        self._servers: dict[Address, SingleServer] = {}
        self._current: Address | None = None
        self._fresh_until = -math.inf

    async def open_connection(self) -> Connection:
        """Connects to the primary, authenticates and selects the database. The caller sets the deadline.

        Raises:
            StoreUnavailableError: no sentinel leads to a primary. It says what each of them said.
            AuthenticationError, CertificateError, and what else a data node answers.
        """
        current = self._current
        if current is not None and time.monotonic() < self._fresh_until and not self.server_at(current).is_retired:
            try:
                return await self._open(current)
            except StoreError as error:
                if error.permanent:
                    raise
                self._fresh_until = -math.inf
        return await self.sentinels.find(self._open, Connection.close)

    async def _open(self, address: Address) -> Connection:
        """Returns a connection to a server that does not say that it is a replica."""
        connection = await self.server_at(address).open_connection()
        if connection.traits.role is Role.REPLICA:
            connection.close()
            raise ReadOnlyStoreError(self._store, f"{_shown(address)} says that it is a replica")
        before, self._current = self._current, address
        self._fresh_until = time.monotonic() + _FRESH_SECONDS
        if before != address:
            if before is not None:
                self.server_at(before).retire()
            event(logging.INFO, "primary_found", store=self._store, primary=_shown(address))
        return connection

    def server_at(self, address: Address) -> SingleServer:
        """Returns the server at an address, which is told the URL's user, password and options."""
        server = self._servers.get(address)
        if server is None:
            if len(self._servers) >= _MOST_SERVERS:
                self._servers = {known: self._servers[known] for known in self._servers if known == self._current}
            host, port = address
            url = RemoteURL(
                scheme="rediss" if self.is_tls else "redis",
                hosts=(HostPort(host=host, port=port),),
                username=self._url.username,
                password=self._url.password,
            )
            server = self._servers[address] = SingleServer(url, self._options, self._stall_timeout, self._credentials)
        return server


def _shown(address: Address) -> str:
    return str(HostPort(host=address[0], port=address[1]))
