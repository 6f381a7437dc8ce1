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
from lmcache_connect.foreign import LOOP_IMPORT_SECONDS, PluginClass, make_connector

_SHAPE = "external://host:port/module_path/?connector_name=ClassName"


class ExternalConnectorAdapter(ConnectorAdapter):
    """`external://host:port/module_path/?connector_name=ClassName`, one host, the path with dots or slashes.

    The class is a `RemoteConnector`, or has the methods of one. It is made with those of `loop`, `local_cpu_backend`
    and `config`, of `metadata`, `context`, `url`, `host` and `port`, and of the URL's further options (strings) that
    its constructor asks for by name. The host means nothing to this adapter.
    """

    schema = "external://"

    def __init__(self) -> None:
        super().__init__()

    def prepare(self, url: RemoteURL, settings: ConnectorConfig) -> None:
        """Imports the module. Raises as `create_connector` does."""
        _load(url, settings, settings.import_timeout)

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        """A new instance of the class that the URL names.

        On the owning event loop's own thread an import may take 40 ms; `await manager.open_connector(url)` gives it
        `import_timeout` and the loop goes on. The class's constructor runs on the calling thread in both.

        Raises:
            InvalidURLError: a `ValueError`: more than one host, or no `connector_name`.
            PluginImportError: an `ImportError`: the module cannot be imported, or not in time, or is not allowed.
            PluginClassMissingError: an `AttributeError`: the module has no such class.
            PluginTypeError: a `TypeError`: it is no connector, or wants arguments that nobody can give it.
            PluginConstructionError: it raised.
        """
        url = context.remote_url
        timeout = context.settings.import_timeout
        if context.owner.is_current():
            timeout = min(timeout, LOOP_IMPORT_SECONDS)
        plugin, kind = _load(url, context.settings, timeout)
        options = {name: value.get_secret_value() for name, value in url.query.items() if name != "connector_name"}
        return make_connector(plugin, kind, context, options)


def _load(url: RemoteURL, settings: ConnectorConfig, timeout: float) -> tuple[PluginClass, Any]:
    if len(url.hosts) > 1:
        raise InvalidURLError(url.redacted(), f"{len(url.hosts)} hosts", f"a single one: {_SHAPE}")
    name = url.query.get("connector_name")
    if name is None or not name.get_secret_value():
        raise InvalidURLError(url.redacted(), "connector_name is missing", _SHAPE)
    plugin = PluginClass.at(url.path, name.get_secret_value())
    kind = plugin.load(timeout, settings.allowed_modules)
    plugin.check_connector(kind)
    return plugin, kind
