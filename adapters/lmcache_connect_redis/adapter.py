"""`RedisConnectorAdapter`: Redis and Valkey URLs."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorContext, RemoteConnector

from .connector import RedisConnector
from .options import RedisOptions
from .topology.single import SingleServer


class RedisConnectorAdapter(ConnectorAdapter):
    """`redis://`, `rediss://` (TLS), `valkey://`, `valkeys://` (TLS) and `unix://`. Options: `RedisOptions`."""

    schema = "redis://"
    schemes = ("redis", "rediss", "valkey", "valkeys", "unix")
    options = RedisOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no server, no database, or no readable password.
        """
        options = context.options(RedisOptions)
        return RedisConnector(
            context, options, SingleServer(context.remote_url, options, context.settings.stall_timeout)
        )
