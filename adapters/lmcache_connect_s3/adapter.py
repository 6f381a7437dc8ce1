"""`S3ConnectorAdapter`: `s3://` URLs."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorConfig, ConnectorContext, RemoteConnector, RemoteURL

from .connector import S3Connector
from .location import locate
from .options import S3Options


class S3ConnectorAdapter(ConnectorAdapter):
    """Takes `s3://bucket/prefix?endpoint=...`, and LMCache's URLs with the host of a bucket."""

    schema = "s3://"
    options = S3Options

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports what botocore needs for sessions. That takes long, so it is not done on the event loop."""
        import botocore.session  # noqa: F401

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Returns a connector. It looks for credentials and connects on first use.

        Raises:
            InvalidURLError, InvalidOptionError: the URL or its options name no possible bucket.
        """
        options = context.options(S3Options)
        return S3Connector(context, options, locate(context.remote_url, options))
