"""`SentinelPrimary` and `SentinelReplica`: the primary of a service, and one of its replicas, as the sentinels say."""

from __future__ import annotations

import logging
import math
import random
import time
from functools import partial
from typing import Final

from lmcache_connect import StoreError, StoreUnavailableError
from lmcache_connect.errors import ReadOnlyStoreError
from lmcache_connect.observability import event
from lmcache_connect.transport import first_of

from ..protocol.connection import Connection
from ..protocol.traits import Role
from .data_nodes import DataNodes, shown
from .placement import Address
from .sentinels import Sentinels

_FRESH_SECONDS: Final = 1.0
"""For how long connections are opened to a server that was just found, without asking the sentinels again."""

_REPLICAS_TRIED: Final = 3
"""How many replicas are tried for one connection."""


class SentinelPrimary:
    """Opens connections to the primary of a service. It has the face of `SingleServer`.

    The sentinels are asked for each connection, except within a second of the last time. Each data node is asked for
    its role: one that calls itself a replica is not the primary, whatever a sentinel says. When the primary is another
    one than before, no connection to the one before is used for another call.
    """

    def __init__(self, store: str, sentinels: Sentinels, nodes: DataNodes, *, is_tls: bool) -> None:
        """`store` is the URL's label, for logs and errors."""
        self.is_tls: Final = is_tls
        self._store: Final = store
        self.sentinels: Final = sentinels
        self.nodes: Final = nodes
        self._current: Address | None = None
        self._fresh_until = -math.inf

    async def open_connection(self) -> Connection:
        """Connects to the primary, authenticates and selects the database. The caller sets the deadline.

        Raises:
            StoreUnavailableError: no sentinel leads to a primary. It says what each of them said.
            AuthenticationError, CertificateError, and what else a data node answers.
        """
        current = self._current
        if current is not None and time.monotonic() < self._fresh_until and not self.nodes.at(current).is_retired:
            try:
                return await self._open(current)
            except StoreError as error:
                if error.permanent:
                    raise
                self._fresh_until = -math.inf
        return await self.sentinels.find_primary(self._open, Connection.close)

    async def _open(self, address: Address) -> Connection:
        """Returns a connection to a server that does not say that it is a replica."""
        connection = await self.nodes.at(address).open_connection()
        if connection.traits.role is Role.REPLICA:
            connection.close()
            raise ReadOnlyStoreError(self._store, f"{shown(address)} says that it is a replica")
        before, self._current = self._current, address
        self._fresh_until = time.monotonic() + _FRESH_SECONDS
        if before != address:
            if before is not None:
                self.nodes.at(before).retire()
            event(logging.INFO, "primary_found", store=self._store, primary=shown(address))
        return connection


class SentinelReplica:
    """Opens connections to one of the replicas of a service: the same one, until it is left.

    Which one is a matter of chance, so that many processes use all of them.
    """

    def __init__(self, store: str, sentinels: Sentinels, nodes: DataNodes, *, is_tls: bool) -> None:
        """`store` is the URL's label, for logs and errors."""
        self.is_tls: Final = is_tls
        self._store: Final = store
        self._sentinels: Final = sentinels
        self._nodes: Final = nodes
        self._current: Address | None = None
        self._left: Address | None = None
        self._fresh_until = -math.inf

    async def open_connection(self) -> Connection:
        """Connects to the replica, authenticates and selects the database. The caller sets the deadline.

        Raises:
            StoreUnavailableError: the service has no replica that can be used.
            What asking the sentinels, and opening a connection, raise.
        """
        current = self._current
        if current is not None and time.monotonic() < self._fresh_until and not self._nodes.at(current).is_retired:
            return await self._open(current)
        usable = await self._sentinels.replicas()
        if not usable:
            raise StoreUnavailableError(self._store, "no sentinel knows a replica that is well")
        random.shuffle(usable)
        usable.sort(key=self._rank)
        errors: list[Exception] = []
        attempts = [partial(self._open, address) for address in usable[:_REPLICAS_TRIED]]
        connection = await first_of(attempts, Connection.close, errors)
        if connection is None:
            raise errors[-1]
        return connection

    def leave(self) -> None:
        """Has another replica used from now on, where there is another. No connection to this one is used again."""
        if self._current is not None:
            self._nodes.at(self._current).retire()
        self._current, self._left = None, self._current

    def _rank(self, address: Address) -> int:
        return 0 if address == self._current else 2 if address == self._left else 1

    async def _open(self, address: Address) -> Connection:
        """Returns a connection to a server that does not say that it is the primary."""
        connection = await self._nodes.at(address).open_connection()
        if connection.traits.role is Role.PRIMARY:
            connection.close()
            raise StoreUnavailableError(self._store, f"{shown(address)} says that it is the primary")
        if self._current is not None and self._current != address:
            self._nodes.at(self._current).retire()
        self._current = address
        self._fresh_until = time.monotonic() + _FRESH_SECONDS
        return connection
