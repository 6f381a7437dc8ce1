"""`SingleServer`: the one server of a URL."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable
from functools import partial
from typing import Final

from lmcache_connect import InvalidURLError, RemoteURL
from lmcache_connect.observability import event
from lmcache_connect.transport import TLSSettings, open_tcp_stream, open_unix_stream

from ..credentials.credentials import Credentials
from ..credentials.sources import credentials_of
from ..options import DEFAULT_PORT, TLS_SCHEMES, RedisOptions, database, probe_of
from ..protocol.connection import Connection
from ..protocol.credential import Credential
from ..protocol.setup import CommandsRefusedError, Dial, Login, open_connection
from ..protocol.tenure import Tenure
from .tls_guess import TLSGuess

_PLAIN_SECONDS: Final = 600.0
"""For how long a peer that closed the connection over a command it lacks is not sent such commands again."""


class SingleServer:
    """Opens connections to the server that a URL names.

    Each connection resolves the name again, and reads the files that the options name as they are then.
    """

    def __init__(
        self,
        url: RemoteURL,
        options: RedisOptions,
        stall_timeout: float | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Opens nothing yet. `stall_timeout`: seconds without a byte after which a connection is dead.

        `credentials` may be shared with other servers, and are closed by who made them. None: those of the URL and the
        options.

        Raises:
            InvalidURLError: the URL names no server, or its path is not a database number.
            InvalidOptionError: the password cannot be read from where the options point.
        """
        self._store = url.label()
        self._stall_timeout = stall_timeout
        self.is_tls = url.scheme in TLS_SCHEMES
        self.url: Final = url
        self._guess: TLSGuess | None = None
        self._dial = self._dial_of(url, options)
        self._credentials = credentials if credentials is not None else credentials_of(url, options)
        self._latest = self._credentials.new_latest()
        self._database = database(url, options)
        self._probe = probe_of(options)
        self._tenure = Tenure(began=-math.inf)
        self._plain_until = -math.inf
        self._told_limits: set[str] = set()

    async def open_connection(self) -> Connection:
        """Connects, authenticates and selects the database. The caller sets the deadline.

        Where the server refuses the credential, its source is asked for another one, which is tried then.

        Raises:
            TLSMismatchError: the server speaks TLS and the URL does not, or the other way round.
            StoreUnavailableError, AuthenticationError, CertificateError, and what else the server answers.
        """
        connection = await self._credentials.log_in(
            lambda credential: self._watched(self._login(credential)), self._latest
        )
        self._tell_of_limits(connection)
        return connection

    def _login(self, credential: Credential) -> Login:
        return Login(credential, self._database, self._probe, self._latest)

    def _watched(self, login: Login) -> Awaitable[Connection]:
        return self._open(login) if self._guess is None else self._guess.watch(partial(self._open, login))

    async def _open(self, login: Login) -> Connection:
        if self._tenure.is_over:
            self._tenure = Tenure()
        tenure = self._tenure
        opened = partial(open_connection, self._dial, self._store, login, tenure)
        if time.monotonic() < self._plain_until:
            return await opened(is_plain=True)
        try:
            return await opened()
        except CommandsRefusedError:
            plain = await opened(is_plain=True)
        # A server that was just being restarted must not count as one that lacks commands.
        try:
            connection = await opened()
        except CommandsRefusedError:
            self._plain_until = time.monotonic() + _PLAIN_SECONDS
            return plain
        except BaseException:
            plain.close()
            raise
        plain.close()
        return connection

    @property
    def is_retired(self) -> bool:
        """Whether all connections that were opened are used up: another server may be the right one by now."""
        return self._tenure.is_over

    def retire(self) -> None:
        """Another server has taken its place: no connection to this one is used for another call. From any thread."""
        self._tenure.is_over = True

    def _tell_of_limits(self, connection: Connection) -> None:
        traits = connection.traits
        if not traits.has_transactions:
            self._tell_once("server_without_transactions")
        if traits.refused:
            self._tell_once("server_without_niceties", refused=", ".join(traits.refused))

    def _tell_once(self, name: str, **facts: str) -> None:
        if name not in self._told_limits:
            self._told_limits.add(name)
            event(logging.INFO, name, store=self._store, **facts)

    def _dial_of(self, url: RemoteURL, options: RedisOptions) -> Dial:
        if url.scheme == "unix":
            if url.hosts or not url.path:
                raise InvalidURLError(url.redacted(), "a unix socket has a path and no host", "unix:///path/to/socket")
            return partial(open_unix_stream, url.path, self._stall_timeout)
        if len(url.hosts) > 1:
            raise InvalidURLError(
                url.redacted(),
                f"{len(url.hosts)} hosts",
                "exactly one host[:port]; for several servers: redis-ring://, redis-cluster:// or redis-sentinel://",
            )
        host, port = url.single_host(DEFAULT_PORT)
        if port == 0:
            raise InvalidURLError(url.redacted(), "the port is 0", "a number from 1 to 65535")
        self._guess = TLSGuess(self._store, host, port, is_tls=self.is_tls)
        if not self.is_tls:
            return partial(open_tcp_stream, host, port, None, self._stall_timeout)
        tls = TLSSettings(options.ca_file, options.cert_file, options.key_file, options.verify, options.server_name)
        return partial(open_tcp_stream, host, port, tls, self._stall_timeout)
