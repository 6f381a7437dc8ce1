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
from lmcache_connect.errors import InvalidOptionError

from ..credentials.callable_import import prepare_callable
from ..options import DEFAULT_PORT, TLS_SCHEMES, refuse_needless_certificates
from ..topology.ring import Ring
from .connector import RingConnector
from .options import RedisRingOptions

_SCHEMES: Final = {
    "redis-ring": "redis",
    "rediss-ring": "rediss",
    "valkey-ring": "valkey",
    "valkeys-ring": "valkeys",
}
"""The schemes, and the scheme of one server's URL."""


class RedisRingConnectorAdapter(ConnectorAdapter):
    """`redis-ring://`, `rediss-ring://` (TLS), `valkey-ring://` and `valkeys-ring://` (TLS).

    Options: `RedisRingOptions`.
    """

    schema = "redis-ring://"
    schemes = tuple(_SCHEMES)
    options = RedisRingOptions

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Computes which server has which keys, and imports the module of `?credentials=`."""
        _ring_of(url)
        prepare_callable(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector that connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL names no server or one twice, has a database in its path, or
                spreads chunks over more servers than it names.
        """
        url = context.remote_url
        if url.path.strip("/"):
            raise InvalidURLError(
                url.redacted(), f"the path {url.path!r}", "no path: ?db= names the database, the same on every server"
            )
        ring = _ring_of(url)
        options, scheme = context.options(RedisRingOptions), _SCHEMES[url.scheme]
        if scheme not in TLS_SCHEMES:
            refuse_needless_certificates(url, options)
        if options.spread > len(ring.addresses):
            reason = f"expected at most {len(ring.addresses)}: the URL names no more servers"
            raise InvalidOptionError(url.redacted(), "spread", str(options.spread), reason)
        connector = RingConnector(context, options, ring, scheme)
        connector.node(ring.addresses[0])  # which tells now what is wrong about the options
        return connector


def _ring_of(url: RemoteURL) -> Ring:
    return Ring(url.several_hosts(DEFAULT_PORT))
