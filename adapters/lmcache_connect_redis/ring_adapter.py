"""`RedisRingConnectorAdapter`: URLs of several plain servers."""

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

from .nodes_connector import NodesConnector
from .options import DEFAULT_PORT, TLS_SCHEMES, RedisOptions, refuse_needless_certificates
from .topology.credential_import import prepare_callable
from .topology.ring import Ring

_SCHEMES: Final = {
    "redis-ring": "redis",
    "rediss-ring": "rediss",
    "valkey-ring": "valkey",
    "valkeys-ring": "valkeys",
}
"""The schemes, and the scheme of one server's URL."""


class RedisRingConnectorAdapter(ConnectorAdapter):
    """`redis-ring://`, `rediss-ring://` (TLS), `valkey-ring://` and `valkeys-ring://` (TLS).

    Options: `RedisOptions`.
    """

    schema = "redis-ring://"
    schemes = tuple(_SCHEMES)
    options = RedisOptions

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Computes which server has which keys, and imports the module of `?credentials=`."""
        _ring_of(url)
        prepare_callable(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no server or one twice, or has a database in its path.
        """
        url = context.remote_url
        if url.path.strip("/"):
            raise InvalidURLError(
                url.redacted(), f"the path {url.path!r}", "no path: ?db= names the database, the same on every server"
            )
        ring = _ring_of(url)
        options, scheme = context.options(RedisOptions), _SCHEMES[url.scheme]
        if scheme not in TLS_SCHEMES:
            refuse_needless_certificates(url, options)
        connector = NodesConnector(context, options, ring, scheme)
        connector.node(ring.addresses[0])  # which tells now what is wrong about the options
        return connector


def _ring_of(url: RemoteURL) -> Ring:
    return Ring(url.several_hosts(DEFAULT_PORT))
