"""`RedisClusterConnectorAdapter`: URLs of Redis Clusters."""

from __future__ import annotations

from typing import Final

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    InvalidURLError,
    RemoteConnector,
    RemoteURL,
)

from ..credentials.callable_import import prepare_callable
from ..options import DEFAULT_PORT, TLS_SCHEMES, refuse_needless_certificates
from .connector import ClusterConnector
from .options import RedisClusterOptions

_SCHEMES: Final = {
    "redis-cluster": "redis",
    "rediss-cluster": "rediss",
    "valkey-cluster": "valkey",
    "valkeys-cluster": "valkeys",
}
"""The schemes, and the scheme of one node's URL."""


class RedisClusterConnectorAdapter(ConnectorAdapter):
    """`redis-cluster://`, `rediss-cluster://` (TLS), `valkey-cluster://` and `valkeys-cluster://` (TLS).

    Options: `RedisClusterOptions`.
    """

    schema = "redis-cluster://"
    schemes = tuple(_SCHEMES)
    options = RedisClusterOptions

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports the module of `?credentials=`."""
        prepare_callable(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no node or one twice, or a database, or no readable
                password.
        """
        url = context.remote_url
        if url.path.strip("/"):
            raise InvalidURLError(
                url.redacted(), f"the path {url.path!r}", "no path: a cluster has one database, which has no number"
            )
        options, scheme = context.options(RedisClusterOptions), _SCHEMES[url.scheme]
        if scheme not in TLS_SCHEMES:
            refuse_needless_certificates(url, options)
        return ClusterConnector(context, options, url.several_hosts(DEFAULT_PORT), scheme)
