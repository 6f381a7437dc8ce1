"""`AuditConnectorAdapter`: `audit+<scheme>://` and LMCache's `audit://`."""

from __future__ import annotations

from typing import Any

from lmcache_connect import ConnectorContext, RemoteConnector, RemoteURL, WrappingAdapter

from .audit_connector import AuditConnector
from .audit_options import AuditOptions, AuditSettings, actual_url


class AuditConnectorAdapter(WrappingAdapter):
    """`audit+redis://host?...`; or `audit://host:port`, around the URL in `extra_config["audit_actual_remote_url"]`."""

    prefix = "audit"
    schema = "audit://"
    options = AuditOptions

    def wrapped_urls(self, url: RemoteURL, config: Any) -> tuple[RemoteURL, ...]:
        """The URL behind the prefix; for `audit://` the URL in the configuration.

        Raises:
            InvalidURLError, InvalidConfigError.
        """
        return super().wrapped_urls(url, config) or (actual_url(url, config),)

    def wrap(self, connector: RemoteConnector, context: ConnectorContext) -> RemoteConnector:
        """An audit of the connector. Raises `InvalidConfigError`."""
        options = context.options(AuditOptions)
        settings = AuditSettings.of(options, context.config)
        return AuditConnector(connector, context.remote_url.label(), settings)
