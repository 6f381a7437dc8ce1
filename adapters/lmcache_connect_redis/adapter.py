"""`RedisConnectorAdapter`: Redis and Valkey URLs."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorConfig, ConnectorContext, RemoteConnector, RemoteURL

from .connector import RedisConnector
from .credentials.callable_import import prepare_callable
from .credentials.sources import credentials_of
from .options import TLS_SCHEMES, RedisOptions, refuse_needless_certificates
from .topology.single import SingleServer


class RedisConnectorAdapter(ConnectorAdapter):
    """`redis://`, `rediss://` (TLS), `valkey://`, `valkeys://` (TLS) and `unix://`. Options: `RedisOptions`."""

    schema = "redis://"
    schemes = ("redis", "rediss", "valkey", "valkeys", "unix")
    options = RedisOptions

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports the module of `?credentials=`. Raises as `create_connector` does."""
        prepare_callable(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no server, no database, or no readable credentials.
        """
        options = context.options(RedisOptions)
        url = context.remote_url
        if url.scheme not in TLS_SCHEMES:
            refuse_needless_certificates(url, options)
        credentials = credentials_of(url, options, context.settings, context.lane)
        server = SingleServer(url, options, context.settings.stall_timeout, credentials)
        return RedisConnector(context, options, server, credentials=credentials)
