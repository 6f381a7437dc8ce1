"""`Plugin`: one plug-in that a configuration names, as LMCache's configuration does."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from ..config import ConnectorConfig
from ..contract import ConnectorAdapter, ConnectorContext, RemoteConnector
from ..errors import InvalidConfigError, PluginError
from ..observability import event
from ..outside import hide_causes
from .adapter import ForeignAdapter
from .making import make_connector
from .plugin_class import PluginClass

SCHEME: Final = "plugin"
_PREFIX: Final = "remote_storage_plugin."
_PLACE: Final = ("module_path", "class_name")


@dataclass
class Plugin:
    """One plug-in. Its name is `type`, or `type.instance` where there are several of one type.

    `settings` come from `extra_config`: the entries `remote_storage_plugin.<type>.<setting>`, over which those of
    `remote_storage_plugin.<type>.<instance>.<setting>` win. `adapter` is set once the plug-in has loaded. Until then
    `failure` says why it has not; it is None where loading was not tried.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    adapter: ConnectorAdapter | None = None
    failure: Exception | None = None

    @property
    def target(self) -> str:
        """Where its class is, as `module:class`; "" where the configuration does not say."""
        module, class_name = (self.settings.get(part) for part in _PLACE)
        return f"{module}:{class_name}" if module and class_name else ""

    def load(self, timeout: float, settings: ConnectorConfig) -> None:
        """Imports the class, within `timeout` seconds, and keeps the adapter or the failure. Never raises.

        A failure that differs from the last one is logged.
        """
        try:
            self.adapter = self._loaded(timeout, settings)
            self.failure = None
        except (PluginError, InvalidConfigError) as failure:
            hide_causes(failure)
            if str(failure) != str(self.failure):
                event(logging.WARNING, "plugin_failed", plugin=self.name, error=str(failure))
            self.failure = failure

    def _loaded(self, timeout: float, settings: ConnectorConfig) -> ConnectorAdapter:
        for part in _PLACE:
            if not isinstance(self.settings.get(part), str) or not self.settings[part]:
                raise InvalidConfigError(f"extra_config.{_PREFIX}{self.name}.{part}", "it is missing, or not a string")
        plugin = PluginClass.at(*(self.settings[part] for part in _PLACE))
        kind = plugin.load(timeout, settings.allowed_modules)
        if callable(getattr(kind, "create_connector", None)):
            made = plugin.make(kind, {}, {}, {})
            return made if isinstance(made, ConnectorAdapter) else ForeignAdapter(made)
        plugin.check_connector(kind)
        own = {name: value for name, value in self.settings.items() if name not in _PLACE}
        return _ClassAdapter(plugin, kind, own)


class _ClassAdapter(ConnectorAdapter):
    """Makes connectors of a plug-in's class that is a connector. It has no scheme: the plug-in is found by its name."""

    makes_foreign = True

    def __init__(self, plugin: PluginClass, kind: type[Any], settings: Mapping[str, Any]) -> None:
        super().__init__()
        self._plugin = plugin
        self._kind = kind
        self._settings = settings

    def create_connector(self, context: ConnectorContext) -> RemoteConnector:
        return make_connector(self._plugin, self._kind, context, self._settings)


def settings_of(name: str, extra: Mapping[Any, Any]) -> dict[str, Any]:
    """The settings of the plug-in `type[.instance]` in an `extra_config`, by their names without the prefix."""
    found: dict[str, Any] = {}
    for prefix in _prefixes(name):
        for key, value in extra.items():
            if isinstance(key, str) and key.startswith(prefix) and "." not in (setting := key[len(prefix) :]):
                found[setting] = value
    return found


def _prefixes(name: str) -> Iterable[str]:
    kind = name.partition(".")[0]
    return dict.fromkeys((f"{_PREFIX}{kind}.", f"{_PREFIX}{name}."))  # the instance's settings beat the type's
