"""`S3ConnectorAdapter`: `s3://` URLs."""

from __future__ import annotations

import math
from typing import Final

from lmcache_connect import ConnectorAdapter, ConnectorConfig, ConnectorContext, RemoteConnector, RemoteURL

from .connector import LARGE_BYTES, S3Connector
from .location import locate
from .options import S3Options

_THREADS_FROM: Final = {"auto": LARGE_BYTES, "thread": 0, "loop": math.inf}


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
        location = locate(context.remote_url, options)
        return S3Connector(
            context.remote_url.label(),
            location,
            options,
            local_cpu_backend=context.local_cpu_backend,
            allocate_timeout=context.settings.allocate_timeout,
            threads_from=math.inf if location.is_tls else _THREADS_FROM[options.io],
            config=context.config,
            metadata=context.metadata,
        )
