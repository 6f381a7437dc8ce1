"""`RedisConnectorAdapter`: Redis and Valkey URLs."""

from __future__ import annotations

import math
from functools import partial
from typing import Final

from lmcache_connect import ConnectorAdapter, ConnectorContext, InvalidURLError, RemoteConnector
from lmcache_connect.transport import TLSSettings, open_tcp_stream, open_unix_stream

from .connector import LARGE_BYTES, RedisConnector
from .options import DEFAULT_PORT, TLS_SCHEMES, RedisOptions, database, password
from .protocol.setup import open_connection

_THREADS_FROM: Final = {"auto": LARGE_BYTES, "thread": 0, "loop": math.inf}


class RedisConnectorAdapter(ConnectorAdapter):
    """`redis://`, `rediss://` (TLS), `valkey://`, `valkeys://` (TLS) and `unix://`; options: `RedisOptions`."""

    schema = "redis://"
    schemes = ("redis", "rediss", "valkey", "valkeys", "unix")
    options = RedisOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A connector that connects on first use."""
        url = context.remote_url
        options = context.options(RedisOptions)
        ca = options.ca_file or "the system's certificate authorities"
        if url.scheme == "unix":
            if url.hosts or not url.path:
                raise InvalidURLError(url.redacted(), "a unix socket has a path and no host", "unix:///path/to/socket")
            dial = partial(open_unix_stream, url.path)
        else:
            host, port = url.single_host(DEFAULT_PORT)
            if port == 0:
                raise InvalidURLError(url.redacted(), "the port is 0", "a number from 1 to 65535")
            tls = None
            if url.scheme in TLS_SCHEMES:
                tls = TLSSettings(
                    options.ca_file, options.cert_file, options.key_file, options.verify, options.server_name
                )
            dial = partial(open_tcp_stream, host, port, tls)
        return RedisConnector(
            connect=partial(
                open_connection,
                dial,
                url.label(),
                url.username,
                password(url, options),
                database(url, options),
                ca,
            ),
            store=url.label(),
            local_cpu_backend=context.local_cpu_backend,
            options=options,
            allocate_timeout=context.settings.allocate_timeout,
            threads_from=math.inf if url.scheme in TLS_SCHEMES else _THREADS_FROM[options.io],
            config=context.config,
            metadata=context.metadata,
        )
