"""`FileConnectorAdapter`: file URLs."""

from __future__ import annotations

from lmcache_connect import ConnectorAdapter, ConnectorContext, InvalidURLError, RemoteConnector

from .connector import FileConnector
from .options import FileOptions


class FileConnectorAdapter(ConnectorAdapter):
    """`file:///path/to/folder`; options: `FileOptions`."""

    schema = "file://"
    options = FileOptions

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """Creates the connector. The folder is not opened before its first use."""
        url = context.remote_url
        if url.hosts or url.username or not url.path.strip("/") or "\0" in url.path:
            raise InvalidURLError(
                url.redacted(), "a file store is named by the path of a folder alone", "file:///path/to/folder"
            )
        return FileConnector(
            context.local_cpu_backend,
            url.path,
            context.options(FileOptions),
            context.settings.allocate_timeout,
            context.config,
            context.metadata,
        )
