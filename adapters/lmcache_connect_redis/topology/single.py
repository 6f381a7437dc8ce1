"""`SingleServer`: the one server of a URL."""

from __future__ import annotations

from functools import partial

from lmcache_connect import InvalidURLError, RemoteURL
from lmcache_connect.transport import TLSSettings, open_tcp_stream, open_unix_stream

from ..options import DEFAULT_PORT, TLS_SCHEMES, RedisOptions, database, password
from ..protocol.connection import Connection
from ..protocol.setup import Dial, open_connection


class SingleServer:
    """Opens connections to the server that a URL names."""

    def __init__(self, url: RemoteURL, options: RedisOptions) -> None:
        """Opens nothing yet.

        Raises:
            InvalidURLError: the URL names no server, or its path is not a database number.
            InvalidOptionError: the password cannot be read from where the options point.
        """
        self._store = url.label()
        self.is_tls = url.scheme in TLS_SCHEMES
        self._dial = self._dial_of(url, options)
        self._username = url.username
        self._password = password(url, options)
        self._database = database(url, options)
        self._authorities = options.ca_file or "the system's certificate authorities"

    async def open_connection(self) -> Connection:
        """Connects, authenticates and selects the database. The caller sets the deadline.

        Raises:
            StoreUnavailableError, AuthenticationError, CertificateError, and what else the server answers.
        """
        return await open_connection(
            self._dial, self._store, self._username, self._password, self._database, self._authorities
        )

    def _dial_of(self, url: RemoteURL, options: RedisOptions) -> Dial:
        if url.scheme == "unix":
            if url.hosts or not url.path:
                raise InvalidURLError(url.redacted(), "a unix socket has a path and no host", "unix:///path/to/socket")
            return partial(open_unix_stream, url.path)
        host, port = url.single_host(DEFAULT_PORT)
        if port == 0:
            raise InvalidURLError(url.redacted(), "the port is 0", "a number from 1 to 65535")
        if not self.is_tls:
            return partial(open_tcp_stream, host, port, None)
        tls = TLSSettings(options.ca_file, options.cert_file, options.key_file, options.verify, options.server_name)
        return partial(open_tcp_stream, host, port, tls)
