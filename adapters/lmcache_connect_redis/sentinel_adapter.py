"""`RedisSentinelConnectorAdapter`: URLs of a primary that sentinels watch over."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorConfig, ConnectorContext, RemoteConnector, RemoteURL

from .connector import RedisConnector
from .sentinel_options import SENTINEL_SCHEMES, SentinelOptions
from .topology.credential_import import prepare_callable
from .topology.credential_sources import credentials_of
from .topology.sentinel import SentinelPrimary


class RedisSentinelConnectorAdapter(ConnectorAdapter):
    """`redis-sentinel://`, `valkey-sentinel://`, and `rediss-sentinel://`, `valkeys-sentinel://` (TLS).

    Options: `SentinelOptions`.
    """

    schema = "redis-sentinel://"
    schemes = SENTINEL_SCHEMES
    options = SentinelOptions

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports the module of `?credentials=`. Raises as `create_connector` does."""
        prepare_callable(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that asks the sentinels and connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no sentinel, no service, or no readable credentials.
        """
        url, options, settings = context.remote_url, context.options(SentinelOptions), context.settings
        credentials = credentials_of(url, options, settings, context.lane)
        primary = SentinelPrimary(url, options, settings.stall_timeout, credentials)
        return RedisConnector(context, options, primary, credentials=credentials)
