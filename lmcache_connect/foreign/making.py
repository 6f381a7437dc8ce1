"""How a foreign connector is made or adopted. The result is always a `RemoteConnector`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contract import ConnectorContext, RemoteConnector
from ..errors import ConnectorContractError
from .connector import ForeignConnector, missing_methods
from .dialect import Dialect, dialect_for
from .plugin_class import PluginClass


def make_connector(
    plugin: PluginClass, kind: type[Any], context: ConnectorContext, options: Mapping[str, Any]
) -> RemoteConnector:
    """An instance of a plug-in's class, wrapped where it is not a `RemoteConnector`.

    The class's constructor is given what it asks for by name: `loop`, `local_cpu_backend`, `config`, `metadata`,
    `context`, `url`, `host`, `port`, `plugin_name`, and any of `options`. A class written for LMCache is given
    LMCache's types.

    Raises:
        PluginTypeError: it asks for something else.
        PluginConstructionError: it raised.
    """
    dialect = Dialect(context) if issubclass(kind, RemoteConnector) else dialect_for(kind, context)
    usual = {"loop": context.loop, "local_cpu_backend": dialect.local_cpu_backend, "config": dialect.config}
    further = {
        "metadata": dialect.metadata,
        "context": dialect.context,
        "url": context.url,
        "host": context.remote_url.host,
        "port": context.remote_url.port,
        "plugin_name": context.plugin_name,
    }
    made = plugin.make(kind, usual, further, options)
    return made if isinstance(made, RemoteConnector) else ForeignConnector(made, dialect)


def adopt_connector(
    made: Any, context: ConnectorContext, maker: str, dialect: Dialect | None = None
) -> RemoteConnector:
    """What an adapter made, wrapped where it is not a `RemoteConnector`.

    `maker` is the name of the adapter's class. `dialect` is the one that the adapter itself was given, where it was
    given one.

    Raises:
        ConnectorContractError: it is not a connector.
    """
    if isinstance(made, RemoteConnector):
        return made
    kind = type(made)
    if lacking := missing_methods(kind):
        got = f"returned a {kind.__qualname__}, which has no {', '.join(lacking)}()"
        raise ConnectorContractError(maker, "create_connector", got, "a connector")
    return ForeignConnector(made, dialect if dialect is not None else dialect_for(kind, context))
