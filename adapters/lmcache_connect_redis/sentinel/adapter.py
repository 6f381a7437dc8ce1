"""`RedisSentinelConnectorAdapter`: URLs of a primary that sentinels watch over."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorConfig, ConnectorContext, RemoteConnector, RemoteURL

from ..connector import RedisConnector
from ..credentials.callable_import import prepare_callable
from ..credentials.sources import credentials_of
from ..options import TLS_SCHEMES, refuse_needless_certificates
from ..topology.data_nodes import DataNodes
from ..topology.sentinel import SentinelPrimary, SentinelReplica
from ..topology.sentinels import Sentinels
from .options import SENTINEL_SCHEMES, SentinelOptions
from .replica_reading import ReplicaReadingConnector


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
        scheme = url.scheme.removesuffix("-sentinel")
        is_tls = scheme in TLS_SCHEMES
        if not is_tls and not options.sentinel_tls:
            refuse_needless_certificates(url, options)
        sentinels = Sentinels(url, options, settings.stall_timeout, is_tls=is_tls)
        credentials = credentials_of(url, options, settings, context.lane)
        nodes = DataNodes(url, options, settings.stall_timeout, credentials, scheme)
        primary = SentinelPrimary(url.label(), sentinels, nodes, is_tls=is_tls)
        if options.replicas == "never":
            return RedisConnector(context, options, primary, credentials=credentials)
        # Nodes of its own: a server that was a replica may become the primary, and its connections have one tenure.
        copies = DataNodes(url, options, settings.stall_timeout, credentials, scheme)
        replica = SentinelReplica(url.label(), sentinels, copies, is_tls=is_tls)
        return ReplicaReadingConnector(context, options, primary, replica, credentials=credentials)
