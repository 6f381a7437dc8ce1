"""`ExternalConnectorAdapter`: from a module and a class named in a URL to a connector."""

from __future__ import annotations

from typing import Any

from lmcache_connect import (
    ConnectorAdapter,
    ConnectorConfig,
    ConnectorContext,
    InvalidURLError,
    RemoteConnector,
    RemoteURL,
)
from lmcache_connect.foreign import PluginClass, make_connector

_SHAPE = "external://host:port/module_path/?connector_name=ClassName"


class ExternalConnectorAdapter(ConnectorAdapter):
    """`external://host:port/module_path/?connector_name=ClassName`, with dots or slashes in the module's path.

    The class is a `RemoteConnector`, or has the methods of one. Its constructor is given what it asks for by name:
    `loop`, `local_cpu_backend`, `config`, `metadata`, `context`, `url`, `host`, `port`, and the URL's further options
    as strings. There is exactly one URL and one host, as in LMCache, and this adapter
    makes no use of the host.
    """

    schema = "external://"
    makes_foreign = True

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports the module. Raises as `create_connector` does."""
        _load(url, settings)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A new instance of the class that the URL names.

        The import may take the setting `import_timeout`. A manager calls this in a thread, so that neither the import
        nor the class's constructor runs on an event loop.

        Raises:
            InvalidURLError: a `ValueError`: more than one host, or no `connector_name`.
            PluginImportError: an `ImportError`: the module cannot be imported, or not in time, or is not allowed.
            PluginClassMissingError: an `AttributeError`: the module has no such class.
            PluginTypeError: a `TypeError`: it is not a connector, or asks for arguments that it cannot be given.
            PluginConstructionError: its constructor raised an error.
        """
        url = context.remote_url
        plugin, kind = _load(url, context.settings)
        options = {name: value.get_secret_value() for name, value in url.query.items() if name != "connector_name"}
        return make_connector(plugin, kind, context, options)


def _load(url: RemoteURL, settings: ConnectorConfig) -> tuple[PluginClass, Any]:
    if f",{url.scheme}://" in url.raw.get_secret_value():
        raise InvalidURLError(url.redacted(), "several URLs joined by a comma", f"a single one: {_SHAPE}")
    if len(url.hosts) > 1:
        raise InvalidURLError(url.redacted(), f"{len(url.hosts)} hosts", f"a single one: {_SHAPE}")
    name = url.query.get("connector_name")
    if name is None or not name.get_secret_value():
        raise InvalidURLError(url.redacted(), "connector_name is missing", _SHAPE)
    plugin = PluginClass.at(url.path, name.get_secret_value())
    kind = plugin.load(settings.import_timeout, settings.allowed_modules)
    plugin.check_connector(kind)
    return plugin, kind
